"""How fast a GPU trains and scores, from the first step on, against the reference's way.

    python -m benchmarks.gpu             # under 4 minutes
    python -m benchmarks.gpu --tiny      # a tiny model, on a CPU too: whether it runs at all

The report's recipe is timed first, in a process that has seen no matrix shape yet, then warm; so is the
default recipe, in a process of its own. Then the share of the time that the GPU works, scoring, the
reference's way (float32 without TF32, padded to 512 tokens, batches of 128), and train.py as a whole. The
last line is JSON.
"""

import contextlib
import io
import json
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.speed import (
    BASE,
    TINY,
    Clock,
    own_trainer,
    random_reviews,
    report,
    review_lengths,
    seconds,
    texts_of,
    train_reference,
    write_model,
)
from goodreads.common import machine
from goodreads.common.cli import Parser, run
from goodreads.common.errors import InputError
from goodreads.common.progress import log
from goodreads.evaluation.scoring import score
from goodreads.model.checkpoint import load_classifier
from goodreads.model.packed import Packed

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {"report": (128, 150), "default": (16, 400)}  # effective batch; steps
DEFAULT_STEPS = 1_200  # of the whole default recipe
BARS = {
    "report_to_reference": 12.0,
    "report_warm_to_reference": 15.0,
    "default_1200_steps_seconds": 30.0,
    "bfloat16_first_seconds": 1.5,
    "train_py_seconds": 25.0,
}


def time_training(folder: Path, shape: dict[str, int], recipe: str, steps: int) -> dict[str, Any]:
    """A recipe from its first step and again warm, and what the GPU does meanwhile."""
    batch, device = RECIPES[recipe][0], machine.choose_device().type
    reviews = random_reviews(review_lengths(6_400), shape["vocab_size"])
    precision = machine.choose_precision(device)
    mixed = {precision: True} if precision != "float32" else {}
    figures: dict[str, Any] = {}
    for state in ("", "_warm"):
        clock = Clock(0, steps)
        classifier = load_classifier(folder, "float32", device)
        trainer = own_trainer(classifier, reviews, batch, "cuda", max_steps=steps, **mixed)
        trainer.add_callback(clock)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        figures[f"{recipe}{state}_ms_per_step"] = 1_000 * clock.seconds / steps
        figures[f"{recipe}{state}_reviews_per_second"] = batch * steps / clock.seconds
    figures[f"{recipe}_packed"] = isinstance(trainer.layout, Packed)
    activity = torch.profiler.ProfilerActivity
    kinds = [activity.CPU, activity.CUDA] if device == "cuda" else [activity.CPU]
    trainer.args.max_steps = 10
    with torch.profiler.profile(activities=kinds) as profiler, contextlib.redirect_stdout(io.StringIO()):
        wall = seconds(trainer.train)
    busy = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
    return figures | {f"{recipe}_gpu_busy_share": busy / wall}


def time_scoring(folder: Path, shape: dict[str, int], n: int) -> dict[str, Any]:
    """Seconds to score n reviews, the first time and the second."""
    texts = texts_of(review_lengths(n), shape["vocab_size"])
    figures = {}
    for dtype in ("bfloat16", "float32"):
        classifier = load_classifier(folder, dtype, machine.choose_device().type)
        for call in ("first", "second"):
            figures[f"{dtype}_{call}_seconds"] = seconds(partial(score, classifier, texts))
    return figures


def time_train_py(model: Path, folder: Path, tiny: bool) -> dict[str, Any]:
    """Seconds from start to saved model of train.py with the report's recipe, by phase."""
    make: list[object] = ["data_loader.py", "--source", "sample", "--output-dir", folder / "data"]
    train: list[object] = [
        "train.py",
        "--recipe",
        "report",
        "--model_name_or_path",
        model,
        "--data-dir",
        folder / "data",
    ]
    if tiny:
        make += ["--head", 60, "--per-genre", 20, "--train-per-genre", 16]
    for script, *options in (make, train):
        start = time.perf_counter()
        command = [sys.executable, str(ROOT / str(script)), *map(str, options)]
        done = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        wall = time.perf_counter() - start
    phases = json.loads(done.stdout.splitlines()[-1])["seconds"]
    return {"train_py_seconds": wall} | {f"train_py_{name}_seconds": value for name, value in phases.items()}


def main() -> None:
    """Run the benchmark."""
    parser = Parser(__doc__, prog="benchmarks.gpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: whether it runs at all")
    parser.add_argument("--default-recipe", type=Path, help="the default recipe alone, on this model")
    options = parser.parse_args()
    device = machine.choose_device()
    if device.type != "cuda" and not options.tiny:
        raise InputError(f"no GPU: {device.reason}; --tiny runs on a CPU")
    transformers.logging.set_verbosity_error()
    shape, steps = (TINY, 3) if options.tiny else (BASE, 0)
    if options.default_recipe:
        figures = time_training(options.default_recipe, shape, "default", steps or RECIPES["default"][1])
        print(json.dumps(figures))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = write_model(shape, Path(name, "start"))
        log.info("the report's recipe")
        figures = time_training(folder, shape, "report", steps or RECIPES["report"][1])
        log.info("the default recipe")
        command = [sys.executable, "-m", "benchmarks.gpu", "--default-recipe", str(folder)]
        command += ["--tiny"] * options.tiny
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        figures |= json.loads(done.stdout.splitlines()[-1])
        log.info("scoring")
        figures |= time_scoring(folder, shape, 40 if options.tiny else 1_600)
        log.info("the reference's way")
        plain = load_classifier(folder, "float32", device.type).model
        batch, first, last = (4, 1, 2) if options.tiny else (128, 3, 33)
        reference = batch / train_reference(plain, shape["vocab_size"], batch, first, last)
        log.info("train.py")
        figures |= time_train_py(folder, Path(name), options.tiny)
    figures["reference_reviews_per_second"] = reference
    for state in ("", "_warm"):
        figures[f"report{state}_to_reference"] = figures[f"report{state}_reviews_per_second"] / reference
    figures["default_1200_steps_seconds"] = figures["default_ms_per_step"] * DEFAULT_STEPS / 1_000
    report(f"speed on {device.name}", figures, BARS)


if __name__ == "__main__":
    run(main, "benchmarks.gpu")

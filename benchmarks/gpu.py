"""How fast a GPU trains and scores, from the first step on, against the reference's way.

    python -m benchmarks.gpu             # under 4 minutes
    python -m benchmarks.gpu --tiny      # a tiny model, on a CPU too: whether it runs at all

The report's recipe is timed first, in a process that has seen no matrix shape yet, then warm; so is the
default recipe, in a process of its own. Then the share of the time that the GPU works, scoring, the
reference's way (float32 without TF32, padded to 512 tokens, batches of 128), and train.py as a whole. The
last line is JSON.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks import speed
from goodreads.common.cli import Parser, run
from goodreads.common.machine import choose_device, choose_precision
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from goodreads.model.packed import Packed

ROOT = Path(__file__).resolve().parent.parent
RECIPES = {"report": (128, 150), "default": (16, 400)}  # effective batch; steps
BARS = {"report_to_reference": 12.0, "report_warm_to_reference": 15.0, "default_1200_steps_seconds": 30.0}
BARS |= {"bfloat16_first_seconds": 1.5, "train_py_seconds": 25.0}


def time_training(model: Path, recipe: str, tiny: bool) -> dict[str, Any]:
    """A recipe from its first step and again warm, and what the GPU does meanwhile."""
    device, (batch, steps) = choose_device().type, (8, 3) if tiny else RECIPES[recipe]
    precision = choose_precision(device)
    options = {"max_steps": steps} | ({} if precision == "float32" else {precision: True})
    texts, figures = speed.random_texts(64 if tiny else 6_400), {}
    for state in ("", "_warm"):
        trainer = speed.own_trainer(model, device, texts, batch, **options)
        step = speed.seconds_per_step(trainer)
        figures[f"{recipe}{state}_ms_per_step"] = 1_000 * step
        figures[f"{recipe}{state}_reviews_per_second"] = batch / step
    trainer.args.max_steps = min(10, steps)
    with torch.profiler.profile() as profiler:
        wall = speed.seconds(trainer.train)
    busy = sum(event.self_device_time_total for event in profiler.key_averages()) / 1e6
    packed = isinstance(trainer.layout, Packed)
    return figures | {f"{recipe}_packed": packed, f"{recipe}_gpu_busy_share": busy / wall}


def last_line(folder: Path, *command: object) -> Any:
    """What a Python program that is run in the folder prints last, as JSON."""
    output = subprocess.check_output([sys.executable, *map(str, command)], cwd=folder, text=True)
    return json.loads(output.splitlines()[-1])


def time_train_py(model: Path, folder: Path, tiny: bool) -> dict[str, float]:
    """Seconds from start to saved model of train.py with the report's recipe, by phase."""
    few: dict[str, Any] = {"head": 60, "per_genre": 20, "train_per_genre": 16} if tiny else {}
    build_split(Parameters("sample", **few), folder / "data")
    start = speed.now()
    last = last_line(folder, ROOT / "train.py", "--recipe", "report", "--model_name_or_path", model)
    figures = {"train_py_seconds": speed.now() - start}
    return figures | {f"train_py_{phase}_seconds": value for phase, value in last["seconds"].items()}


def measure(folder: Path, model: Path | None, tiny: bool) -> dict[str, Any]:
    """All figures, or with a model those of the default recipe on it."""
    if model:
        return time_training(model, "default", tiny)
    model = speed.write_model(folder / "start", tiny)
    figures = time_training(model, "report", tiny)
    default = last_line(ROOT, "-m", "benchmarks.gpu", "--default-recipe", model, *["--tiny"] * tiny)
    figures |= {name: value for name, value in default.items() if name.startswith("default")}
    figures["default_1200_steps_seconds"] = figures["default_ms_per_step"] * 1_200 / 1_000
    device, texts = choose_device().type, speed.random_texts(40 if tiny else 1_600)
    for dtype, (first, second) in speed.time_scoring(model, device, texts, texts).items():
        figures |= {f"{dtype}_first_seconds": first, f"{dtype}_second_seconds": second}
    batch, warm_up, steps = (4, 1, 2) if tiny else (128, 3, 33)
    trainer = speed.reference_trainer(model, device, batch, steps)
    reference = figures["reference_reviews_per_second"] = batch / speed.seconds_per_step(trainer, warm_up)
    for way in ("report", "report_warm"):
        figures[f"{way}_to_reference"] = figures[f"{way}_reviews_per_second"] / reference
    return figures | time_train_py(model, folder, tiny)


def main() -> None:
    """Run the benchmark."""
    parser = Parser(__doc__, prog="benchmarks.gpu")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: whether it runs at all")
    parser.add_argument("--default-recipe", type=Path, help="the default recipe alone, on this model")
    options = parser.parse_args()
    device = choose_device()
    if device.type != "cuda" and not options.tiny:
        parser.error(f"no GPU: {device.reason}; --tiny runs on a CPU")
    speed.report(f"speed on {device.name}", BARS, measure, options.default_recipe, options.tiny)


if __name__ == "__main__":
    run(main, "benchmarks.gpu")

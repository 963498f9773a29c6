"""How fast a model is fine-tuned, against the reference's way, in one run.

    python -m benchmarks.training                   # 4 minutes on two CPU cores; on a GPU if there is one
    python -m benchmarks.training --repeats 5       # steadier medians
    python -m benchmarks.training --shape tiny      # whether it runs at all

Every repeat times both ways one after another, and the matrix products that the figures are held against;
medians, and medians of the ratios within a repeat, are reported. The reference's way is the Trainer on
reviews padded to 512 tokens, in float32. Batches are of 128 reviews on a GPU, as in the reference's recipe,
and of 16 on the CPU. The first steps are not timed. On a GPU ``train.py --recipe report`` is timed too,
twice, from its start to the saved model: the second time its tokens are there. The last stdout line is one
JSON document.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from benchmarks import encoder
from goodreads.common import machine as runtime
from goodreads.common.cli import Parser, positive_int, run
from goodreads.evaluation import scoring
from goodreads.model.tokenized import Padding, TokenizedReviews
from goodreads.training.callbacks import BatchOrderCallback
from goodreads.training.options import MICRO_TOKENS, plan_batches
from goodreads.training.trainer import GenreTrainer

ROOT = Path(__file__).resolve().parent.parent
BATCH = {"cpu": 16, "cuda": 128}
STEPS = {"cpu": (1, 8), "cuda": (10, 150)}  # timed: the reference's, this project's
WARM_UP = {"cpu": 1, "cuda": 10}
EPOCH = 50  # batches from which those of a run are drawn, so that they are as alike as in a real one
BARS = {
    "cpu": {"per_reference": 3.0},
    "cuda": {
        "per_reference": 20.0,
        "reviews_per_second": 3_000.0,
        "of_matmul": 0.35,
        "train_py_seconds": 25.0,
    },
}


class Stopwatch(TrainerCallback):
    """Seconds from the end of the warm-up steps to the end of the last one, with the device's work done."""

    def __init__(self, warm_up: int, steps: int, device: str) -> None:
        self.first, self.last, self.device = warm_up, warm_up + steps, device
        self.seconds = 0.0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at the clock."""
        if state.global_step in (self.first, self.last):
            if self.device == "cuda":
                torch.cuda.synchronize()
            self.seconds = encoder.Clock.now() - self.seconds


def main() -> None:
    """Run the benchmark."""
    options = _options()
    device = runtime.choose_device().type
    if options.cpu_time:
        encoder.Clock.use_cpu_time()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        encoder.save_model(options.shape, folder / "start")
        batch = BATCH[device]
        timed = options.steps or STEPS[device]
        lengths, source = encoder.review_lengths(batch * EPOCH)
        runs = []
        for repeat in range(options.repeats):
            runs.append(compare(folder, options.shape, lengths, batch, timed, device))
            encoder.note("repeat %d of %d: %s", repeat + 1, options.repeats, runs[-1])
        figures = encoder.summarize(runs)
        if device == "cuda":
            figures |= time_train_py(folder)
    bars = BARS[device]
    rows = [(name, value, f"bar {bars[name]}" if name in bars else "") for name, value in figures.items()]
    title = f"training, {options.shape} shape, batch {batch}, {options.repeats} repeats, lengths: {source}"
    document = {"benchmark": "training", "device": device, "shape": options.shape, "lengths": source}
    encoder.report(title, rows, document | {"batch": batch, "bars": bars, "runs": runs} | figures)


def compare(
    folder: Path, shape: str, lengths: list[int], batch: int, timed: tuple[int, int], device: str
) -> dict[str, float]:
    """Both ways once: reviews per second, their ratio, and the share of the matrix products' rate."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    reference = batch * timed[0] / reference_way(folder, shape, batch, timed[0], device)
    limits = [encoder.matmul_rate(dtype, device)]
    own = own_way(folder, shape, lengths, batch, timed[1], device)
    limits.append(encoder.matmul_rate(dtype, device))
    limit = sum(limits) / 2
    # as if the timed batches had held as many tokens as others do
    rate = own["tokens"] / own["seconds"] / (sum(lengths) / len(lengths))
    return {
        "reference_reviews_per_second": reference,
        "reviews_per_second": rate,
        "per_reference": rate / reference,
        "matmul_gflops": limit / 1e9,
        "of_matmul": own["flops"] / own["seconds"] / limit,
        "padding_share": own["padding_share"],
    }


def common(folder: Path, steps: int, device: str) -> dict[str, Any]:
    """The arguments of both ways."""
    return {
        "output_dir": str(folder / "none"),
        "max_steps": steps + WARM_UP[device],
        "learning_rate": 2e-5,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
    }


def reference_way(folder: Path, shape: str, batch: int, steps: int, device: str) -> float:
    """Seconds of the timed steps: every review padded to 512 tokens, float32, all of the batch at once."""
    model, _ = encoder.load_plain(folder / "start", device)
    vocabulary = encoder.SHAPES[shape][-1]
    ids = np.random.default_rng(3).integers(5, vocabulary, (batch, encoder.MAX_LENGTH))
    rows = [
        {"input_ids": row, "attention_mask": np.ones_like(row), "labels": i % 8} for i, row in enumerate(ids)
    ]
    watch = Stopwatch(WARM_UP[device], steps, device)
    arguments = TrainingArguments(
        per_device_train_batch_size=batch,
        bf16=False,
        tf32=False if device == "cuda" else None,
        **common(folder, steps, device),
    )
    torch.backends.cuda.matmul.allow_tf32 = False
    trainer = Trainer(model=model, args=arguments, train_dataset=rows, callbacks=[watch])
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return watch.seconds


def own_way(
    folder: Path, shape: str, lengths: list[int], batch: int, steps: int, device: str
) -> dict[str, float]:
    """Seconds, tokens and matrix FLOPs of the timed steps as train.py does them, and an epoch's padding."""
    classifier = scoring.load_classifier(folder / "start", "float32", device)
    vocabulary = encoder.SHAPES[shape][-1]
    ids = np.random.default_rng(4).integers(5, vocabulary, sum(lengths)).astype(np.int32)
    reviews = TokenizedReviews({"input_ids": ids}, np.array(lengths), np.arange(len(lengths)) % 8)
    plan = plan_batches(batch, None, 1, device)
    watch = Stopwatch(WARM_UP[device], steps, device)
    precision = runtime.choose_precision(device)[0]
    arguments = TrainingArguments(
        per_device_train_batch_size=batch,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        logging_nan_inf_filter=False,
        **common(folder, steps, device),
    )
    trainer = GenreTrainer(
        model=classifier.model,
        args=arguments,
        train_dataset=reviews,
        callbacks=[watch],
        plan=plan,
        padding=Padding.of(classifier.tokenizer),
        fingerprint={},
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(BatchOrderCallback(trainer.order))
    batches = [batch for _ in range(1 + steps // EPOCH) for batch in trainer.order]  # an epoch differs little
    timed = [lengths[i] for batch in batches[WARM_UP[device] :][:steps] for i in batch]
    trainer.train()
    return {
        "seconds": watch.seconds,
        "tokens": sum(timed),
        "flops": 3 * encoder.forward_flops(shape, timed),  # backward takes twice as much as forward
        "padding_share": trainer.order.padding_share(1, MICRO_TOKENS[device], batch),
    }


def time_train_py(folder: Path) -> dict[str, float]:
    """Wall time of train.py with the report's recipe on generated reviews, tokenized by an earlier run."""
    make = "data_loader.py --source sample --output-dir data".split()
    train = "train.py --recipe report --model_name_or_path start".split()
    for script, *options in (make, train, train):
        start = time.perf_counter()
        command = [sys.executable, str(ROOT / script), *options]
        result = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True)
        wall = time.perf_counter() - start
    phases = json.loads(result.stdout.splitlines()[-1])["seconds"]
    return {"train_py_seconds": wall} | {f"train_py_{name}_seconds": value for name, value in phases.items()}


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="benchmarks.training")
    parser.add_argument("--shape", choices=encoder.SHAPES, default="base", help="of the model")
    parser.add_argument(
        "--steps",
        type=positive_int,
        nargs=2,
        metavar="N",
        help="timed the reference's way and this project's; by the device if not given",
    )
    encoder.add_common_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    run(main, "benchmarks.training")

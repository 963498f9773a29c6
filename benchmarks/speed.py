"""How fast reviews are scored and a model is fine-tuned, against the reference's way.

    python -m benchmarks.speed                # 5 minutes on two CPU cores
    python -m benchmarks.speed --cpu-time     # one thread and its processor time: on a machine in other use

Each repeat runs all ways one after another; medians of the rates and of the ratios within a repeat are
reported. The reference's way is the Trainer on reviews padded to 512 tokens, in float32: 8 at a time when
scoring, batches of 16 in training. The model has distilbert-base-cased's shape and random weights; lengths
are those of real reviews if GOODREADS_REAL names a folder with some, else log-normal. The last line is JSON.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.json
import torch
import transformers

from goodreads.common.cli import Parser, positive_int, run
from goodreads.common.machine import choose_device
from goodreads.data.genres import GENRES, file_name
from goodreads.evaluation.scoring import score
from goodreads.model.batching import plan_batches
from goodreads.model.checkpoint import load_classifier
from goodreads.model.scratch_model import SIZES, SPECIAL
from goodreads.model.tokenized import tokenize_texts
from goodreads.training.trainer import GenreTrainer

LONGEST = 512  # tokens
WORDS = 28_996 - len(SPECIAL)  # of distilbert-base-cased's vocabulary
BASELINES = {"float32": "reference", "bfloat16": "reference", "training": "reference_training"}
BARS = {"float32_to_reference": 5.0, "bfloat16_to_reference": 9.0, "training_to_reference": 7.0}


def write_model(folder: Path, tiny: bool) -> Path:
    """A classifier of eight genres with random weights, and a tokenizer of the words w0, w1 and so on."""
    ids = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(WORDS))])}
    tokenizer = transformers.DistilBertTokenizerFast(ids, do_lower_case=False, model_max_length=LONGEST)
    tokenizer.save_pretrained(folder)
    sizes = SIZES if tiny else {}  # the library's defaults are those of the base model
    config = transformers.DistilBertConfig(vocab_size=len(ids), id2label=dict(enumerate(GENRES)), **sizes)
    transformers.DistilBertForSequenceClassification(config).save_pretrained(folder)
    return folder


def random_texts(n: int) -> list[str]:
    """Texts whose lengths stand at even quantiles, so that few stand for all, in random order."""
    # like those of genuine UCSD reviews: once cut at 512 tokens, the median is 63 and the mean 118
    lengths: Any = np.random.default_rng(0).lognormal(4.14, 1.2, 100_000)
    if real := os.environ.get("GOODREADS_REAL"):
        files = [Path(real, "goodreads", file_name(genre)) for genre in ("children", "comics_graphic")]
        texts = [text for file in files for text in pyarrow.json.read_json(file)["review_text"].to_pylist()]
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(Path(real, "models", "distil-mini"))
        lengths = tokenize_texts(tokenizer, texts, LONGEST).lengths
    lengths = np.clip(np.quantile(lengths, (np.arange(n) + 0.5) / n).round(), 3, LONGEST).astype(int)
    rng = np.random.default_rng(1)
    words = [rng.integers(WORDS, size=length - 2) for length in rng.permutation(lengths)]  # [CLS], [SEP]
    return [" ".join(f"w{i}" for i in text) for text in words]


def now() -> float:
    """The time, once the device's work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Clock.timer()


def seconds(work: Callable[..., Any], *args: Any) -> float:
    """Time that ``work`` takes."""
    start = now()
    work(*args)
    return now() - start


class Clock(transformers.TrainerCallback):
    """Times a training run, its ``first`` steps left out."""

    timer = time.perf_counter

    def __init__(self, first: int) -> None:
        self.first, self.seconds = first, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start."""
        if state.global_step == self.first:
            self.seconds = -now()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop at the last step."""
        if state.global_step == state.max_steps:
            self.seconds += now()


def seconds_per_step(trainer: transformers.Trainer, first: int = 0) -> float:
    """Of a training run, its ``first`` steps left out."""
    trainer.add_callback(clock := Clock(first))
    trainer.train()
    return clock.seconds / (trainer.args.max_steps - first)


def arguments(device: str, **options: Any) -> transformers.TrainingArguments:
    """Of a run without files and logs."""
    options |= {"save_strategy": "no", "logging_strategy": "no", "report_to": [], "disable_tqdm": True}
    return transformers.TrainingArguments(tempfile.gettempdir(), use_cpu=device == "cpu", **options)


def own_trainer(model: Path, device: str, texts: list[str], batch: int, **options: Any) -> Any:
    """train.py's way."""
    classifier = load_classifier(model, "float32", device)
    reviews = tokenize_texts(classifier.tokenizer, texts, LONGEST)
    args = arguments(device, logging_nan_inf_filter=False, **options)
    parts = {"model": classifier.model, "processing_class": classifier.tokenizer, "train_dataset": reviews}
    return GenreTrainer(**parts, args=args, plan=plan_batches(batch, None, 1, device))


def reference_trainer(model: Path, device: str, n: int, steps: int) -> transformers.Trainer:
    """The reference's way: n reviews padded to 512 tokens, in float32 without TF32; all make a batch."""
    ids = np.random.default_rng(3).integers(len(SPECIAL), WORDS, (n, LONGEST))
    rows: Any = [{"input_ids": row, "attention_mask": np.ones_like(row), "labels": 0} for row in ids]
    args = arguments(device, max_steps=steps, per_device_train_batch_size=n, tf32=False)
    plain = load_classifier(model, "float32", device).model
    return transformers.Trainer(plain, args, train_dataset=rows, eval_dataset=rows)


def time_scoring(model: Path, device: str, *calls: list[str]) -> dict[str, list[float]]:
    """Seconds that one call after another takes to score its texts, for each number format."""
    models = {dtype: load_classifier(model, dtype, device) for dtype in ("bfloat16", "float32")}
    return {dtype: [seconds(score, one, texts) for texts in calls] for dtype, one in models.items()}


def one_repeat(model: Path, tiny: bool) -> dict[str, float]:
    """Reviews per second of all ways, and their ratios."""
    scored, steps = (16, 2) if tiny else (256, 8)
    texts = random_texts(scored)
    times = time_scoring(model, "cpu", texts[:8], texts)
    rates = {dtype: scored / second for dtype, (_, second) in times.items()}
    trainer = own_trainer(model, "cpu", random_texts(800), 16, max_steps=1 + steps)
    timed = [i for share in list(trainer.get_train_dataloader())[1 : 1 + steps] for i in share["indices"]]
    lengths = trainer.train_dataset.lengths
    share = float(lengths[timed].mean() / lengths.mean())  # as if these reviews were as long as others
    rates["training"] = 16 * share / seconds_per_step(trainer, 1)
    reference = reference_trainer(model, "cpu", 16, steps=2)
    rates["reference"] = 16 / seconds(reference.evaluate)
    rates["reference_training"] = 16 / seconds_per_step(reference, 1)
    ratios = {f"{way}_to_reference": rates[way] / rates[other] for way, other in BASELINES.items()}
    print(f"this repeat: {ratios}", file=sys.stderr)
    return {f"{way}_reviews_per_second": rate for way, rate in rates.items()} | ratios


def medians(folder: Path, repeats: int, tiny: bool) -> dict[str, float]:
    """Of each figure over the repeats."""
    model = write_model(folder, tiny)
    runs = [one_repeat(model, tiny) for _ in range(repeats)]
    return {name: float(np.median([run[name] for run in runs])) for name in runs[0]}


def report(title: str, bars: dict[str, float], measure: Callable[..., dict[str, Any]], *args: Any) -> None:
    """Measure with a scratch folder; print a table, then one line of JSON."""
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):  # the Trainer prints
        figures = measure(Path(folder), *args)
    print(f"{title}; torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    for name, value in figures.items():
        print(f"{name:<44}{value:>12,.4g}   {f'bar {bars[name]:g}' if name in bars else ''}")
    print(json.dumps({"benchmark": title, "bars": bars, **figures}))


def main() -> None:
    """Run the benchmark."""
    parser = Parser(__doc__, prog="benchmarks.speed")
    parser.add_argument("--repeats", type=positive_int, default=3, help="times that all ways are run")
    parser.add_argument("--tiny", action="store_true", help="a tiny model: whether it runs at all")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, and its processor time")
    options = parser.parse_args()
    choose_device(use_cpu=True)
    if options.cpu_time:
        torch.set_num_threads(1)
        Clock.timer = time.thread_time
    report("speed on a CPU", BARS, medians, options.repeats, options.tiny)


if __name__ == "__main__":
    run(main, "benchmarks.speed")

"""Which recipe is best: variants of the default one, several seeds each, on real reviews.

    python -m benchmarks.recipes                    # two genres, 800 training reviews each
    python -m benchmarks.recipes --setting eight    # eight genres, 90 each
    python -m benchmarks.recipes --setting curve --figure docs/images/learning_curve.png
    python -m benchmarks.recipes --variants learning_rate=5e-5 "learning_rate=5e-5 num_train_epochs=4"

GOODREADS_REAL names a folder with goodreads/*.json.gz and models/distil-mini, the stand-in for
distilbert-base-cased. A variant is what it changes in recipes/default.yaml, by train.py's options; reviews=N
trains on N reviews per genre.

A seed decides the split too. Each run adds a line to --runs and is not done again, so a grid that was cut off
goes on. The table compares each variant with the first: mean difference, 95 % interval and p-value of a
bootstrap over seeds and test reviews together. A GPU takes --workers 8; two CPU cores take minutes a run.
"""

import io
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import cache, partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from goodreads.common import machine
from goodreads.common.cli import Parser, positive_int
from goodreads.common.cli import run as run_script
from goodreads.common.errors import InputError
from goodreads.common.progress import Progress, log
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from goodreads.data.split_store import Split, carve, read_split
from goodreads.evaluation.scoring import score_reviews
from goodreads.model.batching import scoring_sizes
from goodreads.model.checkpoint import load_for_training
from goodreads.model.tokenized import tokenize_split
from goodreads.training import launch
from goodreads.training.options import parse
from goodreads.training.trainer import GenreTrainer

RESAMPLES, BLOCK = 10_000, 500  # in all, and at a time
LARGE = {"genres": ("comics_graphic", "children"), "per_genre": 2_150}  # the genres with most reviews
SETTINGS: dict[str, dict[str, Any]] = {
    "two": LARGE | {"train_per_genre": 800},
    "eight": {"per_genre": 120, "train_per_genre": 90, "head": 120},
    "curve": LARGE | {"train_per_genre": 1_950},
}
BASE = "learning_rate=1e-4"  # suits the stand-in, which is smaller than the model of the recipe
TRIED = (
    *(BASE, "learning_rate=3e-5", "learning_rate=5e-5", "learning_rate=2e-4", "learning_rate=3e-4"),
    "learning_rate=2e-5 effective_batch_size=128 warmup_steps=0",  # the report's
    *(f"{BASE} {change}" for change in (
        "num_train_epochs=2", "num_train_epochs=4", "num_train_epochs=6", "effective_batch_size=8",
        "effective_batch_size=32", "effective_batch_size=128 learning_rate=4e-4", "warmup_steps=0",
        "lr_scheduler_type=cosine", "label_smoothing_factor=0.1", "weight_decay=0.1", "max_length=256",
        "max_length=128",
    )),
)  # fmt: skip
SIZES = (800, 200, 400, 1_600)  # training reviews per genre; the protocol's first
CURVE = (*(f"{BASE} reviews={n}" for n in SIZES), BASE)
GRIDS = {
    "two": TRIED,
    "eight": TRIED,
    "curve": (*CURVE, f"{BASE} num_train_epochs=1", f"{BASE} num_train_epochs=2"),
}
Record = dict[str, Any]
Interval = tuple[float, float, float, float]  # value, low, high and p-value


@cache
def make_splits(setting: str, seed: int) -> tuple[Split, Split]:
    """The train and test split of a setting and seed."""
    source = str(Path(os.environ["GOODREADS_REAL"], "goodreads"))
    parameters = Parameters(source=source, seed=seed, drop_duplicates=True, **SETTINGS[setting])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_split(parameters, folder)
        return read_split(folder, "train"), read_split(folder, "test")


def train_and_score(setting: str, task: tuple[str, int]) -> Record:
    """One run: its loss, and as 0 or 1 which test reviews it got right."""
    (variant, seed), log.level = task, logging.WARNING
    given, (train, test) = dict(word.split("=") for word in variant.split()), make_splits(setting, seed)
    if per_genre := int(given.pop("reviews", 0)):
        _, train = carve(train, per_genre)
    checkpoint = Path(os.environ["GOODREADS_REAL"], "models/distil-mini")
    given |= {"save_strategy": "no", "eval_strategy": "no", "seed": str(seed)}
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()):
        given |= {"model_name_or_path": str(checkpoint), "output_dir": folder}
        run, flags = parse(None, [f"--{option}={value}" for option, value in given.items()])
        args, plan = launch.complete(run, flags, machine.choose_device().type)
        length = run.max_length
        tokenizer, model = load_for_training(checkpoint, train.label_names, length, seed, train.texts)
        tokens, unseen = (tokenize_split(it, tokenizer, length, Path(folder)) for it in (train, test))
        parts: Any = {"model": model.to(args.device), "processing_class": tokenizer}  # type: ignore[arg-type]
        trainer = GenreTrainer(args=args, plan=plan, train_dataset=tokens, eval_dataset={}, **parts)
        seconds = trainer.train().metrics["train_runtime"]
        sizes = scoring_sizes(args.device.type, unseen.lengths)
        logits = score_reviews(trainer.model, trainer.layout, sizes, unseen)
    right = logits.argmax(dim=1).numpy() == np.array(test.labels)
    loss = cross_entropy(logits, torch.tensor(test.labels)).item()
    record = {"setting": setting, "variant": variant, "seed": seed, "seconds": seconds, "loss": loss}
    return record | {"right": "".join(map(str, right.astype(int)))}


def hits(records: list[Record], variant: str, seeds: list[int]) -> NDArray[np.float64]:
    """1 where a variant got a review right, else 0; shape (seeds, reviews), NaN where it is not tested."""
    ids = [make_splits(records[0]["setting"], seed)[1].review_ids for seed in seeds]
    columns = {review: i for i, review in enumerate(dict.fromkeys(chain(*ids)))}
    found = np.full((len(seeds), len(columns)), np.nan)
    for record in records:
        if record["variant"] == variant and record["seed"] in seeds:
            row = seeds.index(record["seed"])
            found[row, [columns[i] for i in ids[row]]] = [int(digit) for digit in record["right"]]
    return found


def two_way_bootstrap(values: NDArray[np.float64]) -> Interval:
    """Mean of the values that are there, its 95 % interval, and a two-sided p-value of its being 0.

    Rows (seeds) and columns (reviews) are both resampled (the pigeonhole bootstrap of Owen 2007, Ann. Appl.
    Stat. 1, 386-411, which is conservative).

    Args:
        values: of shape (seeds, reviews), NaN where there is none.
    """
    there, rng = ~np.isnan(values), np.random.default_rng(0)
    known, draws, shape = np.where(there, values, 0.0), np.zeros(0), values.shape
    while len(draws) < RESAMPLES:
        rows, columns = (rng.multinomial(n, np.full(n, 1 / n), BLOCK) for n in shape)
        total, count = (((rows @ part) * columns).sum(axis=1) for part in (known, there))
        draws = np.append(draws, total / count)
    low, high = np.quantile(draws, (0.025, 0.975))
    tail = min(np.mean(draws <= 0), np.mean(draws >= 0))
    return float(np.nanmean(values)), float(low), float(high), min(1.0, 2 * float(tail) + 1 / RESAMPLES)


def table(records: list[Record], variants: Sequence[str]) -> tuple[str, dict[str, Interval]]:
    """A line per variant; and the accuracies with their intervals."""
    lines = ["| variant | seeds | accuracy | loss | difference | p |", "|---" * 6 + "|"]
    intervals, first = {}, variants[0]
    done = {name: {r["seed"] for r in records if r["variant"] == name} for name in variants}
    for variant in variants:
        if not (seeds := sorted(done[variant] & done[first])):
            continue
        own = hits(records, variant, seeds)
        mean, low, high, _ = intervals[variant] = two_way_bootstrap(own)
        losses = [r["loss"] for r in records if r["variant"] == variant and r["seed"] in seeds]
        cells = [variant if variant == first else variant.removeprefix(first).strip(), len(seeds)]
        cells += [f"{mean:.4f} ({low:.3f} to {high:.3f})", f"{np.mean(losses):.3f}", "", ""]
        if variant != first:
            gain, low, high, p = two_way_bootstrap(own - hits(records, first, seeds))
            cells[4:] = [f"{gain:+.4f} ({low:+.4f} to {high:+.4f})", f"{p:.4f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines), intervals


def draw_curve(intervals: dict[str, Interval], seeds: int, path: Path) -> None:
    """Accuracy against training reviews, with intervals."""
    from matplotlib import pyplot as plt

    from goodreads.evaluation.figures import BLUE

    sizes = [*SIZES, SETTINGS["curve"]["train_per_genre"]]
    rows = sorted((n, *intervals[variant][:3]) for n, variant in zip(sizes, CURVE))
    sizes, mean, low, high = np.array(rows).T
    figure, axes = plt.subplots(figsize=(4.4, 2.8))
    axes.errorbar(sizes, mean, [mean - low, high - mean], fmt="o-", color=BLUE, capsize=3)
    axes.set(xlabel="training reviews per genre", ylabel="test accuracy, 95 % interval")
    axes.set_xticks(sizes, [f"{n:,.0f}" for n in sizes])
    axes.set_title(f"The stand-in on two genres, {seeds} seeds", loc="left", fontsize=8)
    figure.savefig(path)


def main() -> None:
    """Do the runs that are missing; print the table."""
    parser = Parser(__doc__, prog="benchmarks.recipes")
    add = parser.add_argument
    add("--setting", choices=tuple(SETTINGS), default="two", help="genres and training reviews")
    add("--variants", nargs="+", help="what to run; the first is the one to compare with")
    add("--seeds", type=positive_int, default=5, help="seeds 1 to N")
    add("--workers", type=positive_int, default=1, help="runs at a time")
    add("--runs", type=Path, default=Path("results/recipes.jsonl"), help="the finished runs")
    add("--figure", type=Path, help="with --setting curve: draw it")
    options = parser.parse_args()
    if "GOODREADS_REAL" not in os.environ:
        raise InputError("GOODREADS_REAL is not set; it names a folder of reviews and models/distil-mini")
    variants = options.variants or GRIDS[options.setting]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    options.runs.parent.mkdir(parents=True, exist_ok=True)
    options.runs.touch()
    records = [json.loads(line) for line in options.runs.read_text(encoding="utf-8").splitlines()]
    records = [record for record in records if record["setting"] == options.setting]
    known = {(record["variant"], record["seed"]) for record in records}
    tasks = [(v, seed) for seed in range(1, options.seeds + 1) for v in variants]
    tasks = [task for task in tasks if task not in known]
    progress = Progress(options.setting, len(tasks), "runs")
    # forked, so that the slow imports are made once; CUDA starts in each worker
    with get_context("fork").Pool(options.workers) as pool, options.runs.open("a", encoding="utf-8") as file:
        for record in pool.imap_unordered(partial(train_and_score, options.setting), tasks):
            print(json.dumps(record), file=file, flush=True)
            records.append(record)
            progress.update(1)
        pool.close()
        pool.join()
    text, intervals = table(records, variants)
    print(text)
    if options.figure:
        draw_curve(intervals, len({record["seed"] for record in records}), options.figure)


if __name__ == "__main__":
    run_script(main, "benchmarks.recipes")

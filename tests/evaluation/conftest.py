"""Evaluations made up of random logits, written by the product's own functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodreads.data.genres import GENRES
from goodreads.data.split_store import Split
from goodreads.evaluation import results
from goodreads.evaluation.metrics import evaluation_metrics

Write = Callable[..., dict[str, Any]]


def make_split(genres: int, each: int) -> Split:
    labels = np.repeat(np.arange(genres), each).tolist()
    ids, texts = [f"r{i}" for i in range(len(labels))], [f"review <{i}>\n*words*" for i in range(len(labels))]
    return Split(ids, ids, texts, labels, list(GENRES)[:genres])


def make_logits(split: Split, seed: int, signal: float = 2.0) -> Any:
    logits = np.random.default_rng(seed).normal(size=(len(split), len(split.label_names)))
    logits[np.arange(len(split)), split.labels] += signal
    return logits.astype(np.float32)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, ...)``: the files of an evaluation in tmp_path; its document."""

    def write(
        name: str, logits: Any = None, weights: str = "a" * 64, genres: int = 8, seed: int = 1,
        signal: float = 2.0, model: Any = (), parameters: Any = (),
    ) -> dict[str, Any]:  # fmt: skip
        split = make_split(genres, 20)
        logits = make_logits(split, seed, signal) if logits is None else logits
        subsets = {"unseen_books": np.arange(len(split)) % 2 == 0, "not_cut": None}
        document = {
            "format": results.FORMAT,
            "name": name,
            "created": "2026-01-02T03:04:05+00:00",
            "git_commit": "0123456789abcdef",
            "model": {"source": "model", "weights_sha256": weights} | dict(model),
            "data": {"reviews": len(split), "parameters": {"source": "sample"} | dict(parameters)},
            "labels": split.label_names,
            "dtype": "float32",
            **evaluation_metrics(np.nan_to_num(logits), np.array(split.labels), split.label_names, subsets),
        }
        with np.errstate(invalid="ignore"):
            results.write(tmp_path, document, split, logits)
        return results.read(tmp_path, name)

    return write

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
    labels = np.repeat(np.arange(genres), each)
    ids, texts = [f"r{i}" for i in range(len(labels))], [f"review <{i}>\n*words*" for i in range(len(labels))]
    extra = {"book_ids": ids} if "book_ids" in Split.__dataclass_fields__ else {}
    return Split(
        review_ids=ids, texts=texts, labels=labels.tolist(), label_names=list(GENRES)[:genres], **extra
    )


def make_logits(split: Split, seed: int, signal: float = 2.0) -> Any:
    logits = np.random.default_rng(seed).normal(size=(len(split), len(split.label_names)))
    logits[np.arange(len(split)), split.labels] += signal
    return logits.astype(np.float32)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """``write(name, ...)``: the files of an evaluation in tmp_path; its document."""

    def write(
        name: str,
        logits: Any = None,
        weights: str | None = "a" * 64,
        genres: int = 8,
        each: int = 20,
        seed: int = 1,
        signal: float = 2.0,
        model: dict[str, Any] | None = None,
        **changes: Any,
    ) -> dict[str, Any]:
        split = make_split(genres, each)
        logits = make_logits(split, seed, signal) if logits is None else logits
        shown = np.nan_to_num(logits)
        subsets = {"unseen_books": np.arange(len(split)) % 2 == 0, "not_cut": None}
        document = {
            "format": 1,
            "name": name,
            "created": "2026-01-02T03:04:05+00:00",
            "git_commit": "0123456789abcdef",
            "model": {"source": "model", "weights_sha256": weights} | (model or {}),
            "data": {"reviews": len(split), "source": "sample", "test_content_sha256": "c"},
            "labels": split.label_names,
            "dtype": "float32",
            "throughput": {"reviews_per_second": 1.0},
            **evaluation_metrics(shown, np.array(split.labels), split.label_names, 1, subsets),
        }
        with np.errstate(invalid="ignore"):
            results.write(tmp_path, document | changes, split, logits)
        return results.read(tmp_path, name)

    return write

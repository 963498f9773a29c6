"""The baseline; evaluations of models are tested by tests/scripts/test_evaluate_model.py."""

from dataclasses import replace

import numpy as np
import pytest

from goodreads.common.errors import InputError
from goodreads.data.split_store import ShardedSplit, Split
from goodreads.evaluation.evaluator import score_baseline
from tests.evaluation.conftest import make_split

WORDS = (("picture", "bedtime", "toddler"), ("panel", "ink", "villain"), ("dragon", "elf", "sword"))


def some_reviews(genres: int, each: int = 30) -> Split:
    split = make_split(genres, each)
    return replace(
        split, texts=[f"a {WORDS[label][i % 3]} book {i % 5}" for i, label in enumerate(split.labels)]
    )


@pytest.mark.parametrize("genres", [2, 3])
def test_it_learns_and_knows_what_it_learned_from(genres: int) -> None:
    logits, _, origin = score_baseline(some_reviews(genres), ["a bedtime book", "an ink panel"])
    assert logits.shape == (2, genres) and logits.dtype == np.float32
    assert logits.argmax(axis=1).tolist() == [0, 1]
    assert origin != score_baseline(some_reviews(genres, 31), ["x"])[2]


@pytest.mark.parametrize("train", [ShardedSplit({}, ["a", "b"]), replace(some_reviews(2), labels=[0] * 60)])
def test_what_it_cannot_be_fitted_on_gets_one_line(train: Split) -> None:
    with pytest.raises(InputError, match="needs a train split in one file with reviews of every genre"):
        score_baseline(train, ["x"])

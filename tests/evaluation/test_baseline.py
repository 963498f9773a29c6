from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from goodreads.common.errors import InputError
from goodreads.data.split_store import ShardedSplit, Split, read_split
from goodreads.evaluation import baseline
from tests.evaluation.conftest import make_split


def two_genres(each: int = 30) -> Split:
    split = make_split(2, each)
    words = (("picture", "bedtime", "toddler"), ("panel", "ink", "villain"))
    texts = [f"a {words[label][i % 3]} book {i % 5}" for i, label in enumerate(split.labels)]
    return replace(split, texts=texts)


def test_it_learns_and_repeats_itself() -> None:
    train = two_genres()
    logits, _, origin = baseline.score(train, ["a bedtime book", "an ink panel"])
    assert logits.shape == (2, 2)
    assert logits.dtype == np.float32
    assert logits.argmax(axis=1).tolist() == [0, 1]
    again, _, same = baseline.score(train, ["a bedtime book", "an ink panel"])
    assert np.array_equal(logits, again)
    assert origin == same != baseline.score(two_genres(31), ["x"])[2]


def test_eight_genres_of_generated_reviews_beat_chance(small_data: Path) -> None:
    test = read_split(small_data, "test")
    logits, _, _ = baseline.score(read_split(small_data, "train"), test.texts)
    assert (logits.argmax(axis=1) == np.array(test.labels)).mean() > 0.2


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (ShardedSplit({}, ["children", "poetry"]), "needs a train split in one file"),
        (replace(two_genres(), labels=[0] * 60), "reviews of every genre"),
        (replace(two_genres(), texts=["!"] * 60), "cannot be fitted"),
    ],
)
def test_what_cannot_be_fitted_gets_one_line(train: Split, message: str) -> None:
    with pytest.raises(InputError, match=message):
        baseline.score(train, ["x"])

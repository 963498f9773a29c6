"""Tokens from the cache are those of the tokenizer, for the same reviews and settings alone."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from goodreads.data.split_store import ShardedSplit, Split
from goodreads.model.scratch_model import build_tokenizer
from goodreads.model.tokenized import tokenize_split
from tests.model.reviews import some_texts


def some_split(n: int = 2_500) -> Split:
    ids, books = [f"r{i}" for i in range(n)], ["b"] * n
    return Split(ids, books, some_texts(n), [i % 3 for i in range(n)], ["a", "b", "c"])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(some_texts(200), 128)


def assert_tokens(folder: Path, split: Split, tokenizer: Any, length: int = 64, given: Any = None) -> None:
    """What ``tokenize_split`` finds is what the tokenizer says; ``given``: the split in another form."""
    found = tokenize_split(given or split, tokenizer, length, folder)
    expected = tokenizer(split.texts, truncation=True, max_length=length)["input_ids"]
    assert [row.tolist() for row in found.rows("input_ids", range(len(split)))] == expected
    assert found.lengths.tolist() == [len(ids) for ids in expected]
    assert found.labels.tolist() == split.labels


def test_the_cache_holds_what_the_tokenizer_says(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "goodreads")
    for again in (False, True):
        assert_tokens(tmp_path / "tokens", some_split(), tokenizer)
        assert ("earlier run" in caplog.text) is again


@pytest.mark.parametrize("change", ["text", "label", "length", "tokenizer"])
def test_tokens_of_something_else_are_never_used(tmp_path: Path, tokenizer: Any, change: str) -> None:
    split, other = some_split(60), build_tokenizer(["other words make another vocabulary"] * 3, 128)
    tokenize_split(split, tokenizer, 64, tmp_path)
    split.texts[7] += " dragons" * (change == "text")
    split.labels[7] += change == "label"
    used = other if change == "tokenizer" else tokenizer
    assert_tokens(tmp_path, split, used, 8 if change == "length" else 64)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("size", [0, 3_000])
def test_a_damaged_cache_is_made_again(tmp_path: Path, tokenizer: Any, size: int) -> None:
    assert_tokens(tmp_path, some_split(60), tokenizer)
    (kept,) = tmp_path.iterdir()
    content = kept.read_bytes()
    os.truncate(kept, size)
    assert_tokens(tmp_path, some_split(60), tokenizer)
    assert len(content) > size and kept.read_bytes() == content


def test_without_a_cache_the_tokens_are_kept_in_memory(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tokens").write_text("a file, not a folder")
    assert_tokens(tmp_path / "tokens", some_split(60), tokenizer)
    assert "kept in memory alone: cannot write" in caplog.text


def test_shards_take_the_same_path(tmp_path: Path, tokenizer: Any) -> None:
    split, shards = some_split(), {}
    for number in range(3):
        rows, path = slice(number * 1_000, (number + 1) * 1_000), tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"text": split.texts[rows], "label": split.labels[rows]}), path)
        shards[path] = str(number)
    for _ in range(2):
        assert_tokens(tmp_path / "tokens", split, tokenizer, given=ShardedSplit(shards, split.label_names))
        assert [path.suffix for path in (tmp_path / "tokens").iterdir()] == [".arrow"]  # the texts are gone

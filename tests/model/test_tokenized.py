"""Tokens from the cache are those of the tokenizer, for the same reviews and settings alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from goodreads.common.files import sha256_file
from goodreads.data.split_store import ShardedSplit, Split
from goodreads.model.scratch_model import build_tokenizer
from goodreads.model.tokenized import TokenizedReviews, tokenize_split, tokenize_texts
from tests.model.reviews import some_texts


def some_split(n: int = 2_500) -> Split:
    ids, books = [f"r{i}" for i in range(n)], ["b"] * n
    return Split(ids, books, some_texts(n), [i % 3 for i in range(n)], ["a", "b", "c"])


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return build_tokenizer(some_texts(200), 128)


def assert_tokens(found: TokenizedReviews, split: Split, tokenizer: Any, max_length: int = 64) -> None:
    expected = tokenizer(split.texts, truncation=True, max_length=max_length)["input_ids"]
    assert [row.tolist() for row in found.rows("input_ids", range(len(split)))] == expected
    assert found.lengths.tolist() == [len(ids) for ids in expected]
    assert found.labels.tolist() == split.labels
    assert len(found) == len(split)


def test_the_cache_holds_what_the_tokenizer_says(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "goodreads")
    split = some_split()
    assert_tokens(tokenize_split(split, tokenizer, 64, tmp_path / "tokens"), split, tokenizer)
    assert "earlier run" not in caplog.text
    assert_tokens(tokenize_split(split, tokenizer, 64, tmp_path / "tokens"), split, tokenizer)
    assert "earlier run" in caplog.text


@pytest.mark.parametrize("change", ["text", "label", "length", "tokenizer"])
def test_tokens_of_something_else_are_never_used(tmp_path: Path, tokenizer: Any, change: str) -> None:
    tokenize_split(some_split(60), tokenizer, 64, tmp_path)
    split, length, other = some_split(60), 64, tokenizer
    if change == "text":
        split.texts[7] += " dragons"
    elif change == "label":
        split.labels[7] += 1
    elif change == "length":
        length = 8
    else:
        other = build_tokenizer(["entirely other words make another vocabulary"] * 3, 128)
    assert_tokens(tokenize_split(split, other, length, tmp_path), split, other, length)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", [lambda content: content[: len(content) // 2], lambda content: b""])
def test_a_damaged_cache_is_made_again(tmp_path: Path, tokenizer: Any, damage: Any) -> None:
    split = some_split(60)
    tokenize_split(split, tokenizer, 64, tmp_path)
    (kept,) = tmp_path.iterdir()
    content = kept.read_bytes()
    kept.write_bytes(damage(content))
    assert_tokens(tokenize_split(split, tokenizer, 64, tmp_path), split, tokenizer)
    assert kept.read_bytes() == content


def test_without_a_cache_the_tokens_are_kept_in_memory(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    split = some_split(60)
    (tmp_path / "tokens").write_text("a file, not a folder")
    assert_tokens(tokenize_split(split, tokenizer, 64, tmp_path / "tokens"), split, tokenizer)
    assert "kept in memory alone: cannot write" in caplog.text


def test_shards_take_the_same_path(tmp_path: Path, tokenizer: Any) -> None:
    split, shards = some_split(2_500), {}
    for number in range(3):
        rows = slice(number * 1_000, (number + 1) * 1_000)
        path = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"text": split.texts[rows], "label": split.labels[rows]}), path)
        shards[path] = sha256_file(path)
    sharded = ShardedSplit(shards, split.label_names)
    found = tokenize_split(sharded, tokenizer, 64, tmp_path / "tokens")
    assert_tokens(found, split, tokenizer)
    assert [path.suffix for path in (tmp_path / "tokens").iterdir()] == [".arrow"]  # the texts are gone
    assert_tokens(tokenize_split(sharded, tokenizer, 64, tmp_path / "tokens"), split, tokenizer)


def test_an_empty_text_becomes_a_token_where_there_are_no_special_ones() -> None:
    class Plain:
        pad_token_id = 7

        def __call__(self, texts: Any, **options: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[] for _ in texts], "token_type_ids": [[] for _ in texts]}

    reviews = tokenize_texts(Plain(), ["", ""], 9)  # type: ignore[arg-type]
    assert reviews.names == ["input_ids", "token_type_ids"]
    assert np.concatenate(reviews.rows("input_ids", [0, 1])).tolist() == [7, 7]

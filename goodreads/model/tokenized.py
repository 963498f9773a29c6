"""Tokenized reviews: flat arrays in memory-mapped Arrow files, which ``datasets`` writes and finds again."""

import json
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from goodreads.common.files import sha256_lines
from goodreads.common.progress import Progress, log
from goodreads.data.split_store import ShardedSplit, Split, content_sha256

FORMAT = "2"
datasets.disable_progress_bars()  # ours is used


class TokenizedReviews:
    """Token ids of n reviews, without padding. In memory are 12 bytes per review; the ids stay in the file.

    Args:
        table: ``label`` (int64) and, for each name under which the model takes tokens, lists of int32.

    Attributes:
        names: columns of tokens: ``input_ids``, and ``token_type_ids`` for some models.
        lengths: int32 of shape (n,), tokens per review.
        labels: int64 of shape (n,).
    """

    def __init__(self, table: pa.Table) -> None:
        self.labels: NDArray[np.int64] = np.array(table.column("label").to_numpy())
        self._tokens = {name: table.column(name) for name in table.column_names if name != "label"}
        self.names = list(self._tokens)
        lengths = pc.list_value_length(self._tokens["input_ids"])
        self.lengths: NDArray[np.int32] = lengths.to_numpy()

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, name: str, indices: Sequence[int]) -> list[NDArray[np.int32]]:
        """One column of some reviews, as views."""
        return [self._tokens[name][i].values.to_numpy() for i in indices]


def tokenize_texts(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], max_length: int
) -> TokenizedReviews:
    """One review or more without labels, tokenized in memory; for the arguments see ``tokenize``."""
    source = datasets.Dataset.from_dict({"text": texts, "label": [0] * len(texts)})
    return tokenize(source, tokenizer, max_length, None)


def tokenize_split(
    split: Split | ShardedSplit, tokenizer: PreTrainedTokenizerFast, max_length: int, cache_dir: Path
) -> TokenizedReviews:
    """A split tokenized, from the cache if it holds the same reviews, tokenizer and length.

    Args:
        split: its reviews, in memory or as shards.
        tokenizer: a fast Hugging Face tokenizer.
        max_length: tokens kept of a review.
        cache_dir: for the Arrow files. Where it cannot be written, the tokens are kept in memory.
    """
    path = cache_dir / f"{_key(split, tokenizer, max_length)[:32]}.arrow"
    with suppress(OSError, pa.ArrowException, KeyError):  # missing or damaged: made again
        found = TokenizedReviews(datasets.Dataset.from_file(str(path)).data.table)
        log.info("tokens of an earlier run, from %s", path)
        return found
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir) as scratch:
            return tokenize(_source(split, scratch), tokenizer, max_length, path)
    except (OSError, pa.ArrowException) as error:
        log.warning("the tokens are kept in memory alone: cannot write %s: %s", cache_dir, error)
    with tempfile.TemporaryDirectory() as scratch:
        return tokenize(_source(split, scratch), tokenizer, max_length, None)


def tokenize(
    source: datasets.Dataset, tokenizer: PreTrainedTokenizerFast, max_length: int, path: Path | None
) -> TokenizedReviews:
    """Tokenize into an Arrow file, or into memory.

    Args:
        source: ``text`` and ``label``; an empty text becomes its special tokens alone, or a padding token.
        tokenizer: a fast Hugging Face tokenizer.
        max_length: tokens kept of a text, special tokens included.
        path: the file; None for memory.
    """
    progress = Progress("tokenize", len(source), "reviews")
    options: dict[str, Any] = {"truncation": True, "max_length": max_length, "return_attention_mask": False}
    empty = {"input_ids": [tokenizer.pad_token_id], "token_type_ids": [0]}

    def columns(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        progress.update(len(batch["text"]))
        encoded = tokenizer(batch["text"], **options)
        return {name: [ids or empty[name] for ids in encoded[name]] for name in encoded}

    kept: dict[str, Any] = {"cache_file_name": str(path)} if path else {"keep_in_memory": True}
    kept |= {"load_from_cache_file": False, "new_fingerprint": "tokens"}
    made = source.map(columns, batched=True, remove_columns=["text"], **kept)
    progress.close()
    return TokenizedReviews(made.data.table)


def _source(split: Split | ShardedSplit, scratch: str) -> datasets.Dataset:
    """Texts and labels; those of shards are copied to ``scratch``, which must stay until they are read."""
    if isinstance(split, Split):
        return datasets.Dataset.from_dict({"text": split.texts, "label": split.labels})
    paths = [str(shard) for shard in split.shards]
    return datasets.Dataset.from_parquet(paths, columns=["text", "label"], cache_dir=scratch)


def _key(split: Split | ShardedSplit, tokenizer: PreTrainedTokenizerFast, max_length: int) -> str:
    """A hash of all that decides the tokens."""
    if isinstance(split, ShardedSplit):
        content = sha256_lines(split.shards.values())
    else:
        content = content_sha256(split.review_ids, split.labels, split.texts)
    state = json.loads(tokenizer.backend_tokenizer.to_str()) | {"truncation": None, "padding": None}
    rules = [sorted(tokenizer.model_input_names), tokenizer.truncation_side, tokenizer.pad_token_id]
    return sha256_lines([FORMAT, content, json.dumps([state, rules, max_length], sort_keys=True)])

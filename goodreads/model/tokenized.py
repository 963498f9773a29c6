"""Tokenized reviews: one flat array for all of them, padded batches from it, a copy beside the split."""

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_path, sha256_lines
from goodreads.common.progress import Progress, log
from goodreads.data.split_store import ShardedSplit, Split, content_sha256

FORMAT = "1"
CHUNK = 1000  # reviews tokenized at once


@dataclass(frozen=True)
class Padding:
    """How a tokenizer pads: the fill value of each column that has one, and the side."""

    values: dict[str, int]
    left: bool

    @classmethod
    def of(cls, tokenizer: Any) -> "Padding":
        """The tokenizer's own way; one without a padding token pads with 0, which the mask hides."""
        values = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
        return cls(values, tokenizer.padding_side == "left")


class TokenizedReviews:
    """The token ids of n reviews, one after the other, without padding.

    Slices of one array make a batch in microseconds, where lists of lists take milliseconds: a GPU would
    wait for them.

    Attributes:
        columns: int32 arrays of shape (tokens,) by the name the model takes them under; no attention_mask.
        lengths: tokens per review, n integers.
        labels: int64 of shape (n,).
    """

    def __init__(
        self, columns: dict[str, NDArray[np.int32]], lengths: NDArray[np.int64], labels: NDArray[np.int64]
    ) -> None:
        self.columns, self.labels, self.lengths = columns, labels, lengths.tolist()
        self._ends = np.cumsum(lengths).tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(
        self, indices: Sequence[int], padding: Padding, device: torch.device | str
    ) -> dict[str, torch.Tensor]:
        """The model's inputs for some reviews, padded to the longest of them.

        Args:
            indices: b reviews.
            padding: the tokenizer's.
            device: where to; the copy to a GPU does not wait for what that is still busy with.

        Returns:
            int64 tensors of shape (b, longest), ``attention_mask`` among them, and ``labels`` of shape (b,).
        """
        cuda = torch.device(device).type == "cuda"
        width = max(self.lengths[i] for i in indices)
        shape = (len(indices), width)
        made = {
            name: torch.full(shape, padding.values.get(name, 0), pin_memory=cuda) for name in self.columns
        } | {"attention_mask": torch.zeros(shape, dtype=torch.int64, pin_memory=cuda)}
        rows = {name: tensor.numpy() for name, tensor in made.items()}
        for row, i in enumerate(indices):
            end, length = self._ends[i], self.lengths[i]
            place = slice(width - length, width) if padding.left else slice(length)
            for name, values in self.columns.items():
                rows[name][row, place] = values[end - length : end]
            rows["attention_mask"][row, place] = 1
        labels = torch.from_numpy(self.labels[indices])
        made["labels"] = labels.pin_memory() if cuda else labels
        return {name: tensor.to(device, non_blocking=True) for name, tensor in made.items()}


def tokenize(
    tokenizer: Any, texts: Sequence[str], labels: Sequence[int], max_length: int, show: bool = True
) -> TokenizedReviews:
    """Token ids without padding.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        texts: n strings; an empty one becomes its special tokens alone.
        labels: n label ids.
        max_length: tokens kept of a text, special tokens included.
        show: whether to report progress.
    """
    lengths: list[int] = []
    parts: dict[str, list[NDArray[np.int32]]] = {}
    progress = Progress("tokenize", len(texts), "reviews") if show else None
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        encoded = tokenizer(chunk, truncation=True, max_length=max_length)
        lengths += [len(ids) for ids in encoded["input_ids"]]
        for name in encoded.keys() - {"attention_mask"}:
            flat = np.fromiter(chain.from_iterable(encoded[name]), np.int32)
            parts.setdefault(name, []).append(flat)
        if progress:
            progress.update(len(chunk))
    if progress:
        progress.close()
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    return TokenizedReviews(columns, np.array(lengths, np.int64), np.array(labels, np.int64))


def load_or_tokenize(
    data_dir: Path, name: str, split: Split | ShardedSplit, tokenizer: Any, max_length: int
) -> TokenizedReviews:
    """The split tokenized, from ``tokens_NAME.safetensors`` in the data folder if that is of the same
    reviews, tokenizer and length, and undamaged; else made and left there for the next run.

    Args:
        data_dir: where the split is; nothing is kept if it cannot be written to.
        name: of the split.
        split: its reviews.
        tokenizer: a fast Hugging Face tokenizer.
        max_length: tokens kept of a review.
    """
    if isinstance(split, ShardedSplit):
        return _sharded(data_dir, split, tokenizer, max_length)
    path = data_dir / f"tokens_{name}.safetensors"
    key = sha256_lines(
        [
            FORMAT,
            content_sha256(split.review_ids, split.labels, split.texts),
            tokenizer_sha256(tokenizer),
            str(max_length),
        ]
    )
    if (found := _read(path, key)) is not None:
        log.info("%s: tokens of an earlier run, from %s", name, path)
        return found
    made = tokenize(tokenizer, split.texts, split.labels, max_length)
    try:
        _write(path, key, made)
    except InputError as error:  # a read-only data folder is no reason to stop
        log.warning("the tokens are not kept: %s", error)
    return made


def tokenizer_sha256(tokenizer: Any) -> str:
    """Hex SHA-256 of all that decides a fast tokenizer's output, but for the length it is asked to cut to."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state |= {"truncation": None, "padding": None}
    names = sorted(tokenizer.model_input_names)
    return sha256_lines([json.dumps(state, sort_keys=True), *names, tokenizer.truncation_side])


def _arrays(reviews: TokenizedReviews) -> dict[str, Any]:
    lengths = np.array(reviews.lengths, dtype=np.int64)
    return {**reviews.columns, "lengths": lengths, "labels": reviews.labels}


def _digest(arrays: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _write(path: Path, key: str, reviews: TokenizedReviews) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    arrays = _arrays(reviews)
    with atomic_path(path) as temporary:
        try:
            save_file(arrays, temporary, metadata={"key": key, "sha256": _digest(arrays)})
        except SafetensorError as error:  # on a read-only file system, where others raise OSError
            raise InputError(f"cannot write {path}: {error}") from error


def _read(path: Path, key: str) -> TokenizedReviews | None:
    """The tokens in ``path``, or None where there are none, of something else, or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return None
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError):
        return None
    if metadata.get("sha256") != _digest(arrays):
        log.warning("%s is damaged and made again", path)
        return None
    lengths, labels = arrays.pop("lengths"), arrays.pop("labels")
    return TokenizedReviews(arrays, lengths, labels)


class _Spliced:
    """One column of several mapped files as if it were one array; a slice lies within one of them."""

    def __init__(self, parts: Sequence[Any], ends: Sequence[int]) -> None:
        self._parts, self._ends = parts, ends

    def __getitem__(self, place: slice) -> NDArray[np.int32]:
        part = bisect_right(self._ends, place.start)
        begin = self._ends[part - 1] if part else 0
        found: NDArray[np.int32] = self._parts[part][place.start - begin : place.stop - begin]
        return found


def tokenize_share(
    data_dir: Path, split: ShardedSplit, tokenizer: Any, max_length: int, rank: int, count: int
) -> None:
    """Make what ``load_or_tokenize`` will look for, of every ``count``-th shard from number ``rank`` on.

    For several processes, each with its share; tokens that are there already are not made again.

    Raises:
        InputError: the tokens cannot be written.
    """
    mine = list(_token_files(data_dir, split, tokenizer, max_length))[rank::count]
    missing = [(shard, path, key) for shard, path, key in mine if _key(path) != key]
    progress = Progress("tokenize", len(missing), "shards")
    for shard, path, key in missing:
        _write(path, key, _tokenize_shard(shard, tokenizer, max_length))
        progress.update(1)
    progress.close()


def _token_files(
    data_dir: Path, split: ShardedSplit, tokenizer: Any, max_length: int
) -> Iterator[tuple[Path, Path, str]]:
    """Each shard, the file of its tokens, and the key that this file must have."""
    same = [FORMAT, tokenizer_sha256(tokenizer), str(max_length)]
    for shard, sha256 in split.shards.items():
        yield shard, data_dir / "tokens" / f"{shard.stem}.safetensors", sha256_lines([*same, sha256])


def _key(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            return (file.metadata() or {}).get("key")
    except (OSError, SafetensorError):
        return None


def _sharded(data_dir: Path, split: ShardedSplit, tokenizer: Any, max_length: int) -> TokenizedReviews:
    """The tokens of all shards, in a mapped file each; those that are missing or damaged are made.

    A run that was interrupted goes on with the shard it had reached. In memory are 16 bytes per review, and
    one shard's tokens while they are made or checked.

    Raises:
        InputError: the tokens cannot be written: more than the memory may hold has to be on the disk.
    """
    from safetensors import safe_open

    files, lengths, labels = [], [], []
    progress = Progress("tokens", len(split.shards), "shards")
    for shard, path, key in _token_files(data_dir, split, tokenizer, max_length):
        found = _read(path, key)
        if found is None:
            found = _tokenize_shard(shard, tokenizer, max_length)
            _write(path, key, found)
        files.append(safe_open(path, "np"))
        lengths.append(np.array(found.lengths, np.int64))
        labels.append(found.labels)
        progress.update(1)
    progress.close()
    ends = np.cumsum([part.sum() for part in lengths]).tolist()
    names = [name for name in files[0].keys() if name not in ("lengths", "labels")]  # noqa: SIM118
    columns: dict[str, Any] = {
        name: _Spliced([file.get_slice(name) for file in files], ends) for name in names
    }
    return TokenizedReviews(columns, np.concatenate(lengths), np.concatenate(labels))


def _tokenize_shard(shard: Path, tokenizer: Any, max_length: int) -> TokenizedReviews:
    """Stream a shard through ``datasets``; its token ids."""
    from datasets import load_dataset

    stream = load_dataset("parquet", data_files=str(shard), split="train", streaming=True)
    texts: list[str] = []
    labels: list[int] = []
    for batch in stream.select_columns(["text", "label"]).iter(batch_size=CHUNK):
        texts += batch["text"]
        labels += batch["label"]
    return tokenize(tokenizer, texts, labels, max_length, show=False)

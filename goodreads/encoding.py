"""Reviews to token ids, and index orders that leave little to pad."""

import random
from collections.abc import Sequence
from typing import Any

import torch

from goodreads.cli import Progress

POOL_BATCHES = 50  # batches drawn at random before they are sorted, as in transformers' group_by_length


def encode(tokenizer: Any, texts: Sequence[str], max_length: int) -> dict[str, list[Any]]:
    """Token ids without padding.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        texts: n strings; an empty one becomes its special tokens alone.
        max_length: tokens kept of a text, special tokens included.

    Returns:
        The tokenizer's columns (``input_ids`` and whatever else its model takes), n lists each.
    """
    columns: dict[str, list[Any]] = {}
    progress = Progress("tokenize", len(texts), "reviews")
    for start in range(0, len(texts), 1000):
        chunk = list(texts[start : start + 1000])
        for name, values in tokenizer(chunk, truncation=True, max_length=max_length).items():
            columns.setdefault(name, []).extend(values)
        progress.update(len(chunk))
    progress.close()
    return columns


def to_dataset(tokenizer: Any, texts: Sequence[str], labels: Sequence[int], max_length: int) -> Any:
    """A ``datasets.Dataset`` of unpadded token ids and ``labels``, longest review first.

    In that order an evaluation pads little; the training order is LengthGroupedOrder's.
    """
    from datasets import Dataset

    columns = encode(tokenizer, texts, max_length) | {"labels": list(labels)}
    order = longest_first([len(ids) for ids in columns["input_ids"]])
    return Dataset.from_dict({name: [values[i] for i in order] for name, values in columns.items()})


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices by falling length, equal ones in their order."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Batches of review indices, longest first, of at most ``budget`` tokens when padded.

    Args:
        lengths: tokens per review.
        budget: tokens per batch, padding included; a longer review gets a batch of its own.
    """
    batches: list[list[int]] = []
    width = 0
    for index in longest_first(lengths):
        if not batches or (len(batches[-1]) + 1) * width > budget:
            batches.append([])
            width = lengths[index]
        batches[-1].append(index)
    return batches


class LengthGroupedOrder(torch.utils.data.Sampler[int]):
    """A random order in which each run of ``batch_size`` indices has reviews of similar length.

    Unlike transformers' LengthGroupedSampler it depends on the seed and the epoch alone, not on the
    state of the global generator, so a resumed epoch sees the batches of the interrupted one; and the
    batches of a pool are shuffled, so an epoch does not run from long to short. ``batch_size`` is the
    effective one: the order is the same on any number of devices. Set ``epoch`` before iterating.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Any:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        pool = self.batch_size * POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            members = sorted(order[start : start + pool], key=lambda i: -self.lengths[i])
            batches += [members[i : i + self.batch_size] for i in range(0, len(members), self.batch_size)]
        last = batches.pop()  # the one that may be short must stay last
        rng.shuffle(batches)
        return iter([index for batch in [*batches, last] for index in batch])

    def padding_share(self, batch_size: int) -> float:
        """Share of padding among the tokens of an epoch in batches of that size, from 0 to 1."""
        order, padded = list(self), 0
        for start in range(0, len(order), batch_size):
            batch = [self.lengths[i] for i in order[start : start + batch_size]]
            padded += max(batch) * len(batch)
        return 1 - sum(self.lengths) / padded

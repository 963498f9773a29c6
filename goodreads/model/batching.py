"""Batches of reviews, as lists of indices, that leave little to pad."""

import random
from collections.abc import Iterator, Sequence

import torch

POOL_BATCHES = 50  # batches drawn at random before they are sorted, as in transformers' group_by_length


def scoring_tokens(device_type: str) -> int:
    """Tokens a device scores at once, padding included.

    On a CPU few, for their activations to stay in its caches: 512 a thread were the fastest, and above 2,048
    glibc gives each layer's memory back and page faults cost more than the products (docs/performance.md).
    """
    if device_type == "cpu":
        return min(2_048, 512 * torch.get_num_threads())
    return 65_536 if device_type == "cuda" else 8_192


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Indices by falling length, equal ones in their order."""
    return sorted(range(len(lengths)), key=lambda i: -lengths[i])


def token_budget_batches(lengths: Sequence[int], budget: int, most: int = 0) -> list[list[int]]:
    """Batches of review indices, longest first, of at most ``budget`` tokens when padded.

    Args:
        lengths: tokens per review.
        budget: tokens per batch, padding included; a longer review gets a batch of its own. 0: any number.
        most: reviews per batch. 0: any number.
    """
    batches: list[list[int]] = []
    width = 0
    for index in longest_first(lengths):
        full = batches and (
            (budget and (len(batches[-1]) + 1) * width > budget) or (most and len(batches[-1]) == most)
        )
        if full or not batches:
            batches.append([])
            width = lengths[index]
        batches[-1].append(index)
    return batches


class LengthGroupedBatches(torch.utils.data.Sampler[list[int]]):
    """Random batches of reviews of similar length; within a batch the longest comes first.

    Unlike transformers' LengthGroupedSampler it depends on the seed and the epoch alone, not on the
    state of the global generator, so a resumed epoch sees the batches of the interrupted one; and the
    batches of a pool are shuffled, so an epoch does not run from long to short. ``batch_size`` is the
    effective one: the batches are the same on any number of devices. Set ``epoch`` before iterating.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int) -> None:
        self.lengths, self.batch_size, self.seed, self.epoch = lengths, batch_size, seed, 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        rng = random.Random(f"{self.seed}/{self.epoch}")
        order = list(range(len(self.lengths)))
        rng.shuffle(order)
        pool = self.batch_size * POOL_BATCHES
        batches: list[list[int]] = []
        for start in range(0, len(order), pool):
            members = sorted(order[start : start + pool], key=lambda i: -self.lengths[i])
            batches += [members[i : i + self.batch_size] for i in range(0, len(members), self.batch_size)]
        last = batches.pop()  # the one that may be short stays last, as the progress of an epoch assumes
        rng.shuffle(batches)
        return iter([*batches, last])

    def padding_share(self, devices: int, budget: int, most: int) -> float:
        """Share of padding among the tokens of an epoch in such micro-batches, from 0 to 1."""
        padded = 0
        for batch in self:
            for rank in range(devices):
                lengths = [self.lengths[i] for i in batch[rank::devices]]
                for part in token_budget_batches(lengths, budget, most):
                    padded += max(lengths[i] for i in part) * len(part)
        return 1 - sum(self.lengths) / padded

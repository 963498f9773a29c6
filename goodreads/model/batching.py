"""Batches of reviews: the order of an epoch, the batch plan, micro-batches of a few fixed sizes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from goodreads.common.errors import InputError

Lengths = Sequence[int] | NDArray[np.int32]

# Tokens of a micro-batch, by device. On a CPU few, so that activations fit its caches; a GPU takes as many
# as its memory allows, since launching kernels costs it more than the arithmetic (docs/performance.md).
MICRO_TOKENS = {"cuda": 32_768, "mps": 4_096, "cpu": 2_048}
SCORING_TOKENS = 16_384  # with fixed sizes
STEPS_DRAWN = 2_000  # to learn how many tokens a step has
QUANTILES = (0.2, 0.5, 0.8, 0.97)  # of the tokens in a micro-batch: its sizes in training
MULTIPLE = 64  # sizes are rounded up to it, as the kernels' tiles are


@dataclass(frozen=True)
class BatchPlan:
    """How ``effective`` reviews per optimizer step are spread.

    Attributes:
        effective: reviews per optimizer step, over all devices.
        devices: number of processes.
        per_device: reviews a device takes at once, at most.
        accumulation: how often it does so in a step, if no more often because of ``tokens``.
        tokens: tokens a device takes at once at most.
        fixed_sizes: whether micro-batches are filled up to one of a few sizes, as CUDA needs it: each new
            matrix shape costs it 50 to 150 ms.
    """

    effective: int
    devices: int
    per_device: int
    accumulation: int
    tokens: int
    fixed_sizes: bool

    def __str__(self) -> str:
        return (
            f"effective batch {self.effective}: {self.devices} device(s) x up to {self.per_device} reviews x "
            f"{self.accumulation} accumulation step(s), each of up to {self.tokens:,} tokens at a time"
        )


def plan_batches(effective: int, per_device: int | None, devices: int, device_type: str) -> BatchPlan:
    """Spread the effective batch over devices and micro-batches; none of them has to divide it.

    Args:
        effective: reviews per optimizer step.
        per_device: reviews a device takes at once; None: as many as ``MICRO_TOKENS`` allow.
        devices: number of processes.
        device_type: cuda, mps or cpu.

    Raises:
        InputError: there are more devices than reviews.
    """
    if effective < devices:
        raise InputError(f"--effective_batch_size {effective} is too small for {devices} devices")
    share = math.ceil(effective / devices)
    at_once = min(per_device or share, share)
    accumulation, fixed = math.ceil(share / at_once), device_type == "cuda"
    return BatchPlan(effective, devices, at_once, accumulation, MICRO_TOKENS[device_type], fixed)


class ShuffledBatches(torch.utils.data.Sampler[list[int]]):
    """The effective batches of an epoch: a plain shuffle that depends on the seed and the epoch alone.

    It does not depend on the global random state, so a resumed epoch has the batches of the interrupted one.
    The last batch may be short.

    Args:
        reviews: number of reviews.
        batch_size: of the effective batch.
        seed: of the shuffle.
    """

    def __init__(self, reviews: int, batch_size: int, seed: int) -> None:
        self.reviews, self.batch_size, self.seed, self.epoch = reviews, batch_size, seed, 0

    def __len__(self) -> int:
        return math.ceil(self.reviews / self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0, before iterating."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.reviews)
        for start in range(0, self.reviews, self.batch_size):
            yield order[start : start + self.batch_size].tolist()


@dataclass(frozen=True)
class Sizes:
    """Limits of a micro-batch, and what it is filled up to.

    Attributes:
        most_tokens, most_reviews: at most that many are taken at once; a longer review is taken alone.
        tokens: the token counts a micro-batch may have, rising; empty: any.
        reviews: the number of rows the classifier gets; 0: as many as there are reviews.
    """

    most_tokens: int
    most_reviews: int
    tokens: tuple[int, ...] = ()
    reviews: int = 0

    def fill(self, tokens: int) -> int:
        """The token count that a micro-batch of ``tokens`` is filled up to."""
        return next((size for size in self.tokens if size >= tokens), tokens)


def training_sizes(plan: BatchPlan, lengths: Lengths) -> Sizes:
    """Micro-batch sizes for training: with fixed sizes, quantiles of the tokens that a share of a step has.

    Few steps exceed the largest size; they are split in two.

    Args:
        plan: the batch plan.
        lengths: tokens per training review.
    """
    if not plan.fixed_sizes:
        return Sizes(plan.tokens, plan.per_device)
    lengths = np.asarray(lengths)
    share = min(math.ceil(plan.effective / plan.devices), len(lengths))
    draws = np.random.default_rng(0).integers(0, len(lengths), (STEPS_DRAWN, share))
    totals = lengths[draws].sum(axis=1)
    parts = np.maximum(math.ceil(share / plan.per_device), np.ceil(totals / plan.tokens))
    tokens = np.quantile(totals / parts, QUANTILES)
    tokens[-1] = max(tokens[-1], lengths.max())
    sizes = tuple(sorted({math.ceil(size / MULTIPLE) * MULTIPLE for size in tokens}))
    return Sizes(sizes[-1], plan.per_device, sizes, plan.per_device)


def scoring_sizes(device_type: str, lengths: Lengths, fixed: bool | None = None) -> Sizes:
    """Micro-batch sizes for scoring: with fixed sizes, a single one that suits these reviews.

    Args:
        device_type: where they are scored.
        lengths: tokens per review.
        fixed: whether to use a fixed size; None: on CUDA.
    """
    if not (device_type == "cuda" if fixed is None else fixed):
        # 1,024 tokens a thread were the fastest on a CPU, and above 2,048 glibc returns each layer's memory
        # to the system, so that page faults cost more than the products (docs/performance.md)
        limit = min(2_048, 1_024 * torch.get_num_threads()) if device_type == "cpu" else 8_192
        return Sizes(limit, len(lengths))
    parts = split_evenly(lengths, SCORING_TOKENS, len(lengths))
    most = max((sum(lengths[i] for i in part) for part in parts), default=1)
    size = math.ceil(most / MULTIPLE) * MULTIPLE
    return Sizes(size, len(lengths), (size,), max(map(len, parts), default=1))


def split_evenly(lengths: Lengths, most_tokens: int, most_reviews: int) -> list[list[int]]:
    """Indices of the reviews in as few parts as the limits allow, of about the same number of tokens.

    Args:
        lengths: tokens per review.
        most_tokens: of a part; a longer review is a part of its own.
        most_reviews: of a part.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    if not len(lengths):
        return []
    order = np.argsort(-lengths, kind="stable")
    most_tokens = max(most_tokens, int(lengths.max()))
    count = max(math.ceil(lengths.sum() / most_tokens), math.ceil(len(lengths) / most_reviews))
    while True:
        # dealt out by falling length, every second round backwards
        rounds, place = np.divmod(np.arange(len(order)), count)
        part = np.where(rounds % 2, count - 1 - place, place)
        totals = np.bincount(part, weights=lengths[order], minlength=count)
        if (fullest := totals.max()) <= most_tokens or count == len(order):
            ends = np.bincount(part, minlength=count).cumsum()[:-1]
            return [i.tolist() for i in np.split(order[np.argsort(part, kind="stable")], ends)]
        count = min(len(lengths), max(count + 1, math.floor(count * fullest / most_tokens)))

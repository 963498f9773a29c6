"""Which reviews make a batch: random, complete, of few sizes and little filler."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodreads.common.errors import InputError
from goodreads.model.batching import ShuffledBatches, plan_batches, split_evenly, training_sizes
from tests.model.reviews import some_lengths


@given(st.integers(1, 300), st.integers(1, 40), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_holds_each_review_once(reviews: int, batch: int, epoch: int, seed: int) -> None:
    order = ShuffledBatches(reviews, batch, seed)
    order.set_epoch(epoch)
    batches = list(order)
    assert sorted(i for each in batches for i in each) == list(range(reviews))
    assert len(batches) == len(order) and {len(each) for each in batches[:-1]} <= {batch}
    np.random.seed(epoch)
    assert batches == list(order)  # the same again, as after a resume


def test_a_batch_is_spread_over_the_next_epoch() -> None:
    """Pairs of a batch of 128 that meet again in a batch of the next epoch: 2 %, by chance."""
    order = ShuffledBatches(6_400, 128, seed=42)
    first = list(order)
    order.set_epoch(1)
    place = {i: number for number, batch in enumerate(order) for i in batch}
    largest = [max(Counter(place[i] for i in batch).values()) / 128 for batch in first]
    assert np.mean(largest) < 0.10
    assert first[0] != next(iter(ShuffledBatches(6_400, 128, seed=43)))


@given(st.lists(st.integers(1, 512), max_size=300), st.integers(1, 4_096), st.integers(1, 40))
def test_parts_keep_the_limits_and_hold_each_review_once(lengths: list[int], tokens: int, most: int) -> None:
    parts = split_evenly(lengths, tokens, most)
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    for part in parts:
        assert sum(lengths[i] for i in part) <= max(tokens, *lengths) and len(part) <= most


@given(st.integers(1, 9), st.integers(1, 64), st.none() | st.integers(1, 70))
def test_the_plan_holds_the_effective_batch(devices: int, share: int, per_device: int | None) -> None:
    plan = plan_batches(devices * share, per_device, devices, "cpu")
    assert plan.devices * plan.per_device * plan.accumulation >= plan.effective == devices * share
    assert plan.devices * plan.per_device * (plan.accumulation - 1) < plan.effective


def test_a_plan_says_what_it_does() -> None:
    unequal = "effective batch 16: 3 device(s) x up to 5 reviews x 2 accumulation step(s)"
    assert str(plan_batches(16, 5, 3, "cpu")).startswith(unequal)
    with pytest.raises(InputError, match="--effective_batch_size 2 is too small for 3 devices"):
        plan_batches(2, None, 3, "cpu")


def test_sizes_follow_the_options() -> None:
    lengths = some_lengths(1_000)
    assert training_sizes(plan_batches(64, None, 1, "cpu"), lengths).tokens == ()
    assert training_sizes(plan_batches(64, 8, 1, "cuda"), lengths).reviews == 8
    few = training_sizes(plan_batches(128, None, 1, "cuda"), lengths[:3])
    assert few.most_tokens >= lengths[:3].max()

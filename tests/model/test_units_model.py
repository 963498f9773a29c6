"""Batches, losses, metrics and records, without any training."""

from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from goodreads.model.scratch_model import build_tokenizer
from goodreads.training.trainer import mean_loss


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1000))
@settings(deadline=None)
def test_micro_batches_of_any_size_add_up_to_the_whole_batch(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sum(sizes), 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, 8, (sum(sizes),), generator=generator)
    whole = mean_loss(SimpleNamespace(logits=logits), labels)
    (expected,) = torch.autograd.grad(whole, logits)
    parts = zip(logits.split(sizes), labels.split(sizes))
    total = sum(mean_loss(SimpleNamespace(logits=a), b, num_items_in_batch=sum(sizes)) for a, b in parts)
    assert isinstance(total, torch.Tensor)
    (found,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(found, expected)


def test_the_small_tokenizer_is_the_same_every_time() -> None:
    texts = [f"The {word} was unlike the {other}, wasn't it?" for word in "abc" for other in ("magic", "war")]
    first, second = (build_tokenizer(texts, 64).get_vocab() for _ in range(2))
    assert first == second
    assert [first[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == list(range(5))
    assert build_tokenizer(texts, 8)("magic " * 20, truncation=True)["input_ids"][0] == 2

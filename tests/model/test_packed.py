"""Packed batches give the logits and gradients of padded ones, or are not used."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from goodreads.model import packed
from goodreads.model.batching import Sizes
from goodreads.model.packed import Packed, choose_layout, disable, enable
from goodreads.model.padded import Padded
from goodreads.model.tokenized import TokenizedReviews
from tests.model.reviews import TOKENIZER, some_reviews, tiny_distilbert

ANY = Sizes(10**9, 10**9)
SIZES = {
    "one batch": ANY,
    "by reviews": Sizes(10**6, 4),
    "fixed sizes": Sizes(3_000, 5, (1_024, 2_048, 3_072), 6),
    "much filler": Sizes(9**6, 9, (9_000,)),
}


@pytest.fixture(scope="module")
def reviews() -> TokenizedReviews:
    """2 to 512 tokens; the third has the special tokens of an empty text alone."""
    return some_reviews([2, 512, 2, *np.random.default_rng(4).integers(2, 513, 15)])


@pytest.fixture(scope="module")
def expected(reviews: TokenizedReviews) -> Any:
    """transformers' own forward pass, all reviews padded to 512 tokens in one batch."""
    return logits_and_gradients(tiny_distilbert(), Padded(TOKENIZER), reviews, ANY)


def logits_and_gradients(model: Any, layout: Padded, reviews: TokenizedReviews, sizes: Sizes) -> Any:
    """Of the sum of the reviews' losses."""
    model.zero_grad()
    logits = torch.zeros(len(reviews), 8)
    for part in layout.split(reviews.lengths, sizes):
        inputs = layout.inputs(reviews, part, sizes, "cpu")
        labels = inputs.pop("labels")
        found = model(**inputs).logits
        torch.nn.functional.cross_entropy(found, labels, reduction="sum").backward()
        logits[part] = found[: len(part)].detach()
    return logits, {name: weight.grad.clone() for name, weight in model.named_parameters()}


def assert_same(model: Any, layout: Padded, reviews: TokenizedReviews, sizes: Sizes, expected: Any) -> None:
    wanted, wanted_gradients = expected
    logits, gradients = logits_and_gradients(model, layout, reviews, sizes)
    assert (logits - wanted).norm() <= 1e-5 * wanted.norm()
    assert (logits - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    # a key's bias has no gradient but rounding, since softmax takes away what all scores share
    scale = torch.cat([gradient.flatten() for gradient in wanted_gradients.values()]).norm()
    for name, wanted in wanted_gradients.items():
        assert (gradients[name] - wanted).norm() <= 1e-5 * max(wanted.norm(), 1e-2 * scale), name


def packed_logits(model: Any, reviews: TokenizedReviews, part: Any, sizes: Sizes, device: str = "cpu") -> Any:
    inputs = Packed(TOKENIZER).inputs(reviews, part, sizes, device)
    del inputs["labels"]
    return model(**inputs).logits


@pytest.mark.parametrize("sizes", SIZES)
def test_logits_and_gradients_are_those_of_padded_batches(
    reviews: TokenizedReviews, expected: Any, sizes: str
) -> None:
    enable(model := tiny_distilbert())
    assert_same(model, Packed(TOKENIZER), reviews, SIZES[sizes], expected)


@pytest.mark.parametrize("seed", range(4))
def test_the_company_of_a_review_changes_nothing(reviews: TokenizedReviews, expected: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    enable(model := tiny_distilbert())
    for part in np.array_split(rng.permutation(len(reviews)), 5):
        sizes = Sizes(10**6, 99, (int(rng.integers(1, 9_000)),), 7)
        found = packed_logits(model, reviews, part.tolist(), sizes)[: len(part)]
        torch.testing.assert_close(found, expected[0][part], rtol=1e-5, atol=1e-6)


def test_a_model_for_packed_batches_still_takes_padded_ones(reviews: TokenizedReviews, expected: Any) -> None:
    model = tiny_distilbert()
    for change in (enable, disable):
        change(model)
        assert_same(model, Padded(TOKENIZER), reviews, Sizes(2_048, 99), expected)
    assert "packed" not in str(model.config.to_dict())


def test_attention_has_dropout_in_training_alone(reviews: TokenizedReviews) -> None:
    enable(model := tiny_distilbert(attention_dropout=0.5))
    for training in (True, False):
        first, second = (packed_logits(model.train(training), reviews, [0, 1, 4], ANY) for _ in range(2))
        assert torch.equal(first, second) is not training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_kernels_of_a_gpu_take_what_they_are_given(reviews: TokenizedReviews, dtype: torch.dtype) -> None:
    """Shapes and arguments alone, on torch's meta device: the two operators are not public."""
    enable(model := tiny_distilbert(dropout=0.1).to("meta").to(dtype).train())
    logits = packed_logits(model, reviews, [0, 3, 4], Sizes(9_000, 9, (9_000,), 6), "meta")
    assert logits.shape == (6, 8) and logits.dtype == dtype
    if dtype == torch.bfloat16:  # the other's backward pass has no meta version
        logits.sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_takes_packed_batches(reviews: TokenizedReviews, dtype: torch.dtype) -> None:
    model: Any = tiny_distilbert().cuda().to(dtype)
    assert isinstance(choose_layout(model, TOKENIZER, reviews), Packed)


def leak(rows: list[torch.Tensor], *rest: Any) -> Any:
    """Attention that looks at the other reviews too."""
    query, key, value = (tensor.transpose(0, 1)[None] for tensor in rows)
    return torch.nn.functional.scaled_dot_product_attention(query, key, value)[0].transpose(0, 1)


no_kernel = mock.Mock(side_effect=RuntimeError("No available kernel. Aborting execution.\nC++ stack"))


@pytest.mark.parametrize(("broken", "message"), [(leak, "differ by"), (no_kernel, "No available kernel")])
def test_packed_batches_that_fail_their_check_are_not_used(
    reviews: TokenizedReviews, broken: Any, message: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    model = tiny_distilbert()
    monkeypatch.setattr(packed, "_attend", broken)
    assert type(choose_layout(model, TOKENIZER, reviews, check=True)) is Padded
    (warning,) = caplog.messages
    assert message in warning and "padded instead" in warning
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_packed_batches_that_pass_their_check_are_used(
    reviews: TokenizedReviews, autocast: torch.dtype | None
) -> None:
    model = tiny_distilbert(dropout=0.1)
    for some in (reviews, some_reviews([3, 4])):
        with torch.autocast("cpu", autocast, bool(autocast)):
            assert isinstance(choose_layout(model, TOKENIZER, some, check=True), Packed)
        assert not model.training

"""Reviews are scored alike in any company, and logits that are not finite are refused."""

import random
from typing import Any

import numpy as np
import pytest
import torch

from goodreads.common.errors import CheckFailed
from goodreads.evaluation.scoring import score
from goodreads.model.checkpoint import Classifier
from goodreads.model.scratch_model import build_tokenizer
from tests.model.reviews import tiny_distilbert

WORDS = "the a book of dragons poems war love murder school king and with very dull great end".split()


def sentences(n: int) -> list[str]:
    rng = random.Random(9)
    return [" ".join(rng.choices(WORDS, k=int(rng.lognormvariate(3, 1)) + 1)) for _ in range(n)]


@pytest.fixture
def classifier() -> Classifier:
    tokenizer = build_tokenizer(sentences(100), 64)
    model: Any = tiny_distilbert(3, vocab_size=len(tokenizer))
    return Classifier(model, tokenizer, ["a", "b", "c"], 64)


def test_scores_do_not_depend_on_order_or_company(classifier: Classifier) -> None:
    texts = ["", *sentences(80)]
    logits, tokens = score(classifier, texts)
    assert logits.shape == (81, 3) and logits.dtype == np.float32
    again, _ = score(classifier, texts)
    assert (logits == again).all()  # bit for bit
    turned, same = score(classifier, texts[::-1])
    np.testing.assert_allclose(turned[::-1], logits, rtol=1e-4, atol=1e-6)
    one, _ = score(classifier, texts[40:41])
    np.testing.assert_allclose(one[0], logits[40], rtol=1e-4, atol=1e-6)
    expected = classifier.tokenizer(texts, truncation=True, max_length=64)["input_ids"]
    assert tokens == same == sum(map(len, expected))


def test_no_reviews_give_no_logits(classifier: Classifier) -> None:
    logits, tokens = score(classifier, [])
    assert logits.shape == (0, 3) and tokens == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_refused(classifier: Classifier, value: float) -> None:
    texts = [*sentences(9), "dragons"]
    ids = classifier.tokenizer("dragons")["input_ids"]
    with torch.no_grad():
        classifier.model.distilbert.embeddings.word_embeddings.weight[ids[1]] = value
    count = sum("dragons" in text for text in texts)
    with pytest.raises(CheckFailed, match=f"the logits of {count} of 10 reviews are not finite"):
        score(classifier, texts)

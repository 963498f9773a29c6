"""Reviews are scored alike in any company, and logits that are not finite are refused."""

from typing import Any

import numpy as np
import pytest
import torch

from goodreads.common.errors import CheckFailed
from goodreads.evaluation.scoring import score
from goodreads.model.checkpoint import Classifier
from goodreads.model.scratch_model import build_tokenizer
from tests.model.reviews import some_texts, tiny_distilbert


@pytest.fixture
def classifier() -> Classifier:
    tokenizer = build_tokenizer(some_texts(100), 64)
    model: Any = tiny_distilbert(num_labels=3, vocab_size=len(tokenizer))
    return Classifier(model, tokenizer, ["a", "b", "c"], 64)


def test_scores_do_not_depend_on_order_or_company(classifier: Classifier) -> None:
    texts = some_texts(81)
    logits, tokens = score(classifier, texts)
    assert logits.shape == (81, 3) and logits.dtype == np.float32
    assert (logits == score(classifier, texts)[0]).all()  # bit for bit
    turned, _ = score(classifier, texts[::-1])
    np.testing.assert_allclose(turned[::-1], logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(score(classifier, texts[40:41])[0][0], logits[40], rtol=1e-4, atol=1e-6)
    ids = classifier.tokenizer(texts, truncation=True, max_length=64)["input_ids"]
    assert tokens.tolist() == [len(row) for row in ids]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_refused(classifier: Classifier, value: float) -> None:
    texts = [*some_texts(9), "dragons"]
    id_ = classifier.tokenizer.convert_tokens_to_ids("dragons")
    classifier.model.get_input_embeddings().weight.data[id_] = value
    count = sum("dragons" in text for text in texts)
    with pytest.raises(CheckFailed, match=f"the logits of {count} of 10 reviews are not finite"):
        score(classifier, texts)

"""Reviews and models of the tests, made of random tokens."""

from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from goodreads.model.tokenized import TokenizedReviews

VOCABULARY = 500


def some_lengths(n: int, seed: int = 0) -> NDArray[np.int32]:
    """Log-normal lengths like those of real reviews: median 63 tokens, mean 118, cut at 512."""
    lengths = np.random.default_rng(seed).lognormal(np.log(63), 1.12, n)
    return np.clip(lengths, 2, 512).astype(np.int32)


def some_reviews(lengths: Any, seed: int = 0, labels: int = 8) -> TokenizedReviews:
    """Random tokens of these lengths."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(5, VOCABULARY, length) for length in lengths]
    label = rng.integers(0, labels, len(lengths))
    return TokenizedReviews(pa.table({"input_ids": pa.array(ids, pa.list_(pa.int32())), "label": label}))


def tiny_distilbert(labels: int = 8, dropout: float = 0.0, **options: Any) -> Any:
    """Two layers, 64 wide, in evaluation mode."""
    torch.manual_seed(1)
    shape = {"vocab_size": VOCABULARY, "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4}
    rates = dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), dropout)
    config = DistilBertConfig(**shape | rates | {"num_labels": labels, "pad_token_id": 0} | options)
    return DistilBertForSequenceClassification(config).eval()


class Tokenizer:
    """What of a tokenizer is needed for tokens that are there already."""

    pad_token_id, pad_token_type_id, padding_side, model_max_length = 0, 0, "right", 512

    def save_pretrained(self, folder: str) -> None:
        """A checkpoint of these tests needs no tokenizer."""

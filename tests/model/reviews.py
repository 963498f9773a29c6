"""Reviews of random tokens, a tiny model and a trainer, for tests."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import DistilBertConfig, DistilBertForSequenceClassification, TrainingArguments

from goodreads.model.batching import plan_batches
from goodreads.model.scratch_model import build_tokenizer
from goodreads.model.tokenized import TokenizedReviews
from goodreads.training.trainer import GenreTrainer

VOCABULARY = 500
WORDS = "the a book of dragons poems war love murder school king and with very dull great end".split()
TOKENIZER = build_tokenizer(WORDS, 512)


def some_texts(n: int) -> list[str]:
    """An empty text, then some of a few words to a few hundred."""
    rng = random.Random(9)
    return ["", *(" ".join(rng.choices(WORDS, k=int(rng.lognormvariate(3, 1)) + 1)) for _ in range(n - 1))]


def some_lengths(n: int, seed: int = 0) -> NDArray[np.int32]:
    """Log-normal lengths like those of real reviews: median 63 tokens, mean 118, cut at 512."""
    lengths = np.random.default_rng(seed).lognormal(np.log(63), 1.12, n)
    return np.clip(lengths, 2, 512).astype(np.int32)


def some_reviews(lengths: Any) -> TokenizedReviews:
    """Random tokens of these lengths, with eight labels."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(5, VOCABULARY, length) for length in lengths]
    labels = rng.integers(0, 8, len(lengths))
    return TokenizedReviews(pa.table({"input_ids": pa.array(ids, pa.list_(pa.int32())), "label": labels}))


def tiny_distilbert(dropout: float = 0.0, **options: Any) -> Any:
    """Two layers, 64 wide, in evaluation mode; without dropout unless asked for."""
    torch.manual_seed(1)
    shape = {"vocab_size": VOCABULARY, "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4}
    rates = dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), dropout)
    config = DistilBertConfig(**shape | rates | {"num_labels": 8, "pad_token_id": 0} | options)
    return DistilBertForSequenceClassification(config).eval()


def make_trainer(
    folder: Path, train: Any, test: Any, effective: int, plan: Any = (None, 1, "cpu"), **options: Any
) -> GenreTrainer:
    """A trainer on the CPU that saves nothing by itself.

    ``plan`` holds the other arguments of ``plan_batches``; options are the Trainer's own or of its arguments.
    """
    own = ("args", "model", "processing_class", "callbacks")
    given = {key: options.pop(key) for key in own if key in options}
    fixed = {"output_dir": str(folder), "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 42}
    usual = {"eval_strategy": "epoch", "save_strategy": "no", "logging_steps": 1, "optim": "sgd"}
    parts: dict[str, Any] = {"model": tiny_distilbert(), "processing_class": TOKENIZER}
    parts |= {"args": TrainingArguments(**fixed | usual | options), "eval_dataset": {"test": test}}
    return GenreTrainer(train_dataset=train, plan=plan_batches(effective, *plan), **parts | given)

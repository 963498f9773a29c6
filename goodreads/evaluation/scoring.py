"""A model folder to logits, the pipeline's own way: length-sorted batches of a fixed token budget."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from goodreads.common.errors import InputError
from goodreads.common.progress import Progress, log
from goodreads.model.batching import longest_first, scoring_tokens, token_budget_batches
from goodreads.model.checkpoint import check_complete
from goodreads.model.first_token import skip_unread
from goodreads.model.tokenized import Padding, TokenizedReviews, tokenize

CHUNK = 400  # reviews tokenized while those before them are scored


@dataclass(frozen=True)
class Classifier:
    """A loaded model.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: the fast tokenizer saved with it.
        labels: names by the model's own label ids.
        max_length: tokens of a review it was trained on at most.
    """

    model: Any
    tokenizer: Any
    labels: list[str]
    max_length: int


def load_classifier(folder: Path, dtype: str, device: str) -> Classifier:
    """Load a sequence classifier from a folder, from safetensors only and without any network.

    Args:
        folder: config.json, model.safetensors and the tokenizer's files.
        dtype: ``float32`` or ``bfloat16``, of the weights and the arithmetic.
        device: a torch device.

    Raises:
        InputError: the folder is not a complete model, or one whose classifier was never trained.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

    logging.set_verbosity_error()  # what it would warn of is refused below
    logging.disable_progress_bar()
    check_complete(folder)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers, safetensors and tokenizers share no base class
        raise InputError(f"{folder} cannot be loaded as a classifier: {error}") from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise InputError(f"{folder} has no trained classifier (no {missing}); fine-tune it with train.py")
    skip_unread(model)
    labels = [model.config.id2label[i] for i in range(model.config.num_labels)]
    limit = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    max_length = min(tokenizer.model_max_length, limit)
    return Classifier(model.eval().to(device), tokenizer, labels, max_length)


def score(classifier: Classifier, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
    """Logits of each text, in the order given.

    Long texts go first, so that texts of similar length share a batch; while a part of them is scored, a
    thread tokenizes the next (the fast tokenizer releases Python's lock). The batches depend on the texts
    alone, so the same command gives the same bits.

    Args:
        classifier: from ``load_classifier``.
        texts: n reviews.

    Returns:
        float32 logits of shape (n, labels), columns in the model's own label order; and the number of
        tokens scored, padding left out.
    """
    model, padding, tokens = classifier.model, Padding.of(classifier.tokenizer), 0
    logits = np.zeros((len(texts), len(classifier.labels)), dtype=np.float32)
    order = longest_first([len(text) for text in texts])
    parts = [order[start : start + CHUNK] for start in range(0, len(order), CHUNK)]

    def tokenized(part: list[int]) -> TokenizedReviews:
        chosen = [texts[i] for i in part]
        return tokenize(classifier.tokenizer, chosen, [0] * len(part), classifier.max_length, show=False)

    budget = scoring_tokens(model.device.type)
    log.info("scoring %s reviews, at most %s tokens at a time", f"{len(texts):,}", f"{budget:,}")
    progress = Progress("score", len(texts), "reviews")
    with ThreadPoolExecutor(1) as ahead, torch.inference_mode():
        for part, reviews in zip(parts, ahead.map(tokenized, parts)):
            tokens += sum(reviews.lengths)
            for batch in token_budget_batches(reviews.lengths, budget):
                inputs = reviews.batch(batch, padding, model.device)
                del inputs["labels"]
                logits[[part[i] for i in batch]] = model(**inputs).logits.float().cpu().numpy()
                progress.update(len(batch))
    progress.close()
    return logits, tokens

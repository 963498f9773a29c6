"""Reviews to logits: one loop for evaluate_model.py and for the evaluations of a training run."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from goodreads.common.errors import CheckFailed
from goodreads.common.progress import Progress, log
from goodreads.model.batching import Sizes, scoring_sizes
from goodreads.model.checkpoint import Classifier
from goodreads.model.packed import choose_layout
from goodreads.model.padded import Padded, to_device
from goodreads.model.tokenized import TokenizedReviews, tokenize_texts


def score(classifier: Classifier, texts: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Logits of each text, in the order given.

    Args:
        classifier: from ``goodreads.model.checkpoint.load_classifier``.
        texts: n reviews, one or more.

    Returns:
        float32 logits of shape (n, labels), columns in the model's own label order; and the number of tokens
        of each review that were scored, shape (n,).

    Raises:
        CheckFailed: a logit is not a finite number.
    """
    model = classifier.model
    reviews = tokenize_texts(classifier.tokenizer, texts, classifier.max_length)
    layout = choose_layout(model, classifier.tokenizer, reviews)
    sizes = scoring_sizes(model.device.type, reviews.lengths)
    log.info("scoring %s reviews, at most %s tokens at a time", f"{len(texts):,}", f"{sizes.most_tokens:,}")
    return score_reviews(model, layout, sizes, reviews, show=True).numpy(), reviews.lengths


def score_reviews(
    model: PreTrainedModel,
    layout: Padded,
    sizes: Sizes,
    reviews: TokenizedReviews,
    process: int = 0,
    processes: int = 1,
    show: bool = False,
) -> torch.Tensor:
    """float32 logits of shape (n, labels), on the CPU.

    Each of several processes scores every n-th micro-batch, and their logits meet in a sum with zeros. The
    micro-batches do not depend on the number of processes, so neither do the logits.

    Raises:
        CheckFailed: a logit is not a finite number.
    """
    parts = layout.split(reviews.lengths, sizes)[process::processes]
    logits = torch.zeros(len(reviews), len(model.config.id2label or ()), device=model.device)
    progress = Progress("score", len(reviews), "reviews") if show else None
    model.eval()
    with torch.inference_mode():
        for part in parts:
            inputs = layout.inputs(reviews, part, sizes, model.device)
            del inputs["labels"]
            rows = to_device(torch.tensor(part), model.device)  # a list would wait for the GPU
            logits[rows] = model(**inputs).logits[: len(part)].float()
            if progress:
                progress.update(len(part))
    if processes > 1:
        torch.distributed.all_reduce(logits)
    if progress:
        progress.close()
    if bad := int((~logits.isfinite().all(dim=1)).sum()):
        hint = "the weights are damaged, or training diverged (a lower --learning_rate helps)"
        raise CheckFailed(f"the logits of {bad:,} of {len(reviews):,} reviews are not finite numbers: {hint}")
    return logits.cpu()

"""The baseline that a fine-tuned model has to beat: TF-IDF with logistic regression."""

from collections.abc import Sequence

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from goodreads.common.errors import InputError
from goodreads.common.files import sha256_lines
from goodreads.common.progress import log
from goodreads.data.split_store import ShardedSplit, Split, content_sha256

NAME = "tfidf"


def score(train: Split | ShardedSplit, texts: Sequence[str]) -> tuple[NDArray[np.float32], str]:
    """Fit on the train split and score some reviews; the same input gives the same result.

    Words and pairs of words that stand in at least two reviews; scikit-learn's regularization (C = 1).

    Args:
        train: in memory, at least one review of each label.
        texts: n reviews.

    Returns:
        Logits of shape (n, labels), and a SHA-256 of what decides them: train split, settings and version of
        scikit-learn. (That of the fitted parameters would depend on the number of threads.)

    Raises:
        InputError: the split cannot be fitted.
    """
    if not isinstance(train, Split) or len(set(train.labels)) < len(train.label_names):
        raise InputError(
            f"--model {NAME} needs a train split in one file with every genre in it; "
            "name one with --data-dir (data_loader.py --per-genre N makes it)"
        )
    log.info("fitting TF-IDF and logistic regression on %s reviews", f"{len(train):,}")
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2), LogisticRegression(max_iter=1_000)
    )
    try:
        decision = model.fit(train.texts, train.labels).decision_function(texts)
    except ValueError as error:  # no word stands in two reviews
        raise InputError(f"--model {NAME} cannot be fitted on this train split: {error}") from error
    if decision.ndim == 1:  # two labels: one column, whose sigmoid is the second's probability
        decision = np.stack([-decision / 2, decision / 2], axis=1)
    content = content_sha256(train.review_ids, train.labels, train.texts)
    return decision.astype(np.float32), sha256_lines([sklearn.__version__, repr(model), content])

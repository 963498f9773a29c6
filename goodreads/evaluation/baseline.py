"""The baseline that a fine-tuned model has to beat: TF-IDF with logistic regression."""

import time
from typing import Any

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


Document = dict[str, Any]


def score(train: Split | ShardedSplit, texts: list[str]) -> tuple[NDArray[np.float32], Document, Document]:
    """Fit on the train split and score n reviews; the same input gives the same result.

    Words and pairs of words that stand in at least two reviews; scikit-learn's regularization (C = 1).

    Returns:
        Logits of shape (n, labels), further keys of the results file, and the origin, as of a model. Its
        ``weights_sha256`` is that of train split, settings and version of scikit-learn. (That of the fitted
        parameters would depend on the number of threads.)

    Raises:
        InputError: the split cannot be fitted.
    """
    if not isinstance(train, Split) or len(set(train.labels)) < len(train.label_names):
        raise InputError(f"--model {NAME} needs a train split in one file with reviews of every genre")
    log.info("fitting TF-IDF and logistic regression on %s reviews", f"{len(train):,}")
    started = time.perf_counter()
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    model = make_pipeline(words, LogisticRegression(max_iter=1_000))
    try:
        logits = model.fit(train.texts, train.labels).decision_function(texts)
    except ValueError as error:  # no word stands in two reviews
        raise InputError(f"--model {NAME} cannot be fitted on this train split: {error}") from error
    seconds = time.perf_counter() - started
    if logits.ndim == 1:  # two labels: one column, whose sigmoid is the second's probability
        logits = np.stack([-logits / 2, logits / 2], axis=1)
    content = content_sha256(train.review_ids, train.labels, train.texts)
    digest = sha256_lines([sklearn.__version__, repr(model), content])
    details: Document = {"dtype": "float32", "device": "cpu", "seconds": {"fit_and_score": seconds}}
    details["throughput"] = {"reviews_per_second": len(texts) / seconds}
    return logits.astype(np.float32), details, {"source": NAME, "weights_sha256": digest}

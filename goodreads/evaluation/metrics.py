"""Logits to metrics with intervals: accuracy, precision, recall, F1 (weighted, macro), loss, calibration."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from goodreads.common.errors import CheckFailed

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

AVERAGES = ("weighted", "macro")
RESAMPLES = 2_000  # of the test reviews, for the intervals
LEVEL = 0.95
BINS = 15  # of the confidence, as in Guo et al. 2017, arXiv:1706.04599


class MulticlassMetrics(evaluate.Metric):
    """Accuracy, and precision, recall and F1 averaged over the classes, as one `evaluate` module.

    ``evaluate.load("f1")`` would fetch a script from the network, and the stock modules average as for two
    classes unless told otherwise. scikit-learn computes.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__ or "",
            citation="",
            inputs_description="predictions and references: label ids",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, classes: int) -> dict[str, float]:
        values = {"accuracy": float(accuracy_score(references, predictions))}
        for average in AVERAGES:
            scores = precision_recall_fscore_support(
                references, predictions, labels=range(classes), average=average, zero_division=0
            )
            for name, value in zip(("precision", "recall", "f1"), scores):
                values[f"{name}_{average}"] = float(value)
        return values


def classification_metrics(predictions: Ints, labels: Ints, classes: int) -> dict[str, float]:
    """The metrics that need predictions only.

    Args:
        predictions, labels: label ids, shape (n,).
        classes: number of classes, including those without a test review.
    """
    module = MulticlassMetrics(keep_in_memory=True, cache_dir=tempfile.gettempdir())
    result: dict[str, float] = module.compute(predictions=predictions, references=labels, classes=classes)
    return result


def cross_entropy(logits: Floats, labels: Ints) -> Floats:
    """The loss of each review in nats, shape (n,), from logits of shape (n, classes)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True).astype(np.float64)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])


def check_finite(logits: Floats) -> None:
    """Raise CheckFailed unless all logits, of shape (n, classes), are finite numbers."""
    if bad := int((~np.isfinite(logits)).any(axis=1).sum()):
        raise CheckFailed(
            f"the logits of {bad:,} of {len(logits):,} reviews are not finite numbers: the model is damaged, "
            "or its training diverged; train it again"
        )


def evaluation_metrics(
    logits: Floats, labels: Ints, label_names: Sequence[str], seed: int, subsets: Mapping[str, Mask | None]
) -> dict[str, Any]:
    """Every number that the results file gives for a set of predictions.

    Args:
        logits: shape (n, classes).
        labels: shape (n,), columns of ``logits``.
        label_names: slugs by label id.
        seed: of the bootstrap.
        subsets: name -> which reviews belong to it, shape (n,), or None where that is not known.

    Returns:
        ``metrics`` (name -> value and interval), ``per_class`` (slug -> precision, recall, f1, support),
        ``confusion_matrix`` (rows: true label, columns: predicted), ``calibration`` and ``subsets``.

    Raises:
        CheckFailed: a logit is not a finite number.
    """
    check_finite(logits)
    predictions, losses, classes = logits.argmax(axis=1), cross_entropy(logits, labels), len(label_names)
    values = classification_metrics(predictions, labels, classes) | {"loss": float(losses.mean())}
    intervals = bootstrap_intervals(predictions, labels, losses, classes, seed)
    per_class = precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0)
    right = predictions == labels
    return {
        "metrics": {
            name: {"value": value, "low": intervals[name][0], "high": intervals[name][1]}
            for name, value in values.items()
        },
        "per_class": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "support": int(s)}
            for name, p, r, f, s in zip(label_names, *per_class)
        },
        "confusion_matrix": confusion_matrix(labels, predictions, labels=range(classes)).tolist(),
        "calibration": calibration(logits, right),
        "subsets": {
            name: None if mask is None else subset_accuracy(right[mask]) for name, mask in subsets.items()
        },
    }


def calibration(logits: Floats, right: Mask) -> dict[str, Any]:
    """Whether the model is right as often as it is confident.

    Args:
        logits: shape (n, classes).
        right: whether each prediction is right, shape (n,).

    Returns:
        ``expected_calibration_error`` (mean distance between confidence and accuracy over the bins, weighted
        by their reviews), ``confidence`` (its mean), and the non-empty ``bins`` of equal width.
    """
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    bin_of = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins, error = [], 0.0
    for number in np.unique(bin_of):
        inside = bin_of == number
        mean, accuracy = float(confidence[inside].mean()), float(right[inside].mean())
        error += float(inside.mean()) * abs(mean - accuracy)
        edges = {"low": float(number / BINS), "high": float((number + 1) / BINS)}
        bins.append({**edges, "reviews": int(inside.sum()), "confidence": mean, "accuracy": accuracy})
    return {"expected_calibration_error": error, "confidence": float(confidence.mean()), "bins": bins}


def subset_accuracy(right: Mask) -> dict[str, Any]:
    """``reviews`` and their ``accuracy`` with Wilson's 95 % interval (None without reviews)."""
    hits, n = int(right.sum()), len(right)
    if not n:
        return {"reviews": 0, "accuracy": None}
    interval = binomtest(hits, n).proportion_ci(LEVEL, method="wilson")
    entry = {"value": hits / n, "low": float(interval.low), "high": float(interval.high)}
    return {"reviews": n, "accuracy": entry}


def bootstrap_intervals(
    predictions: Ints, labels: Ints, losses: Floats, classes: int, seed: int
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals (Efron & Tibshirani 1993, ch. 13) over resampled reviews.

    Args:
        predictions, labels: label ids, shape (n,).
        losses: loss per review, shape (n,).
        classes: number of classes.
        seed: of the resampling.

    Returns:
        metric name -> (low, high).
    """
    rng = np.random.default_rng(seed)
    n = len(labels)
    cells, rows = labels * classes + predictions, []
    for _ in range(RESAMPLES):
        drawn = rng.integers(0, n, n)
        counts = np.bincount(cells[drawn], minlength=classes * classes).reshape(classes, classes)
        rows.append({**_from_confusion(counts), "loss": float(losses[drawn].mean())})
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    return {
        name: tuple(float(q) for q in np.quantile([row[name] for row in rows], tails))  # type: ignore[misc]
        for name in rows[0]
    }


def _from_confusion(counts: Ints) -> dict[str, float]:
    """MulticlassMetrics from a confusion matrix, since scikit-learn is too slow to call 2,000 times."""
    hits, support, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(support, 1)
    f1 = 2 * hits / np.maximum(support + predicted, 1)
    result = {"accuracy": float(hits.sum() / counts.sum())}
    for average in AVERAGES:
        weights = support / support.sum() if average == "weighted" else np.full(len(hits), 1 / len(hits))
        for name, values in (("precision", precision), ("recall", recall), ("f1", f1)):
            result[f"{name}_{average}"] = float((values * weights).sum())
    return result

"""Logits to metrics with intervals: accuracy, precision, recall, F1 (weighted, macro), loss, calibration."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import binomtest
from sklearn.metrics import confusion_matrix

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

RESAMPLES = 2_000  # of the test reviews, for the intervals
LEVEL = 0.95
BINS = 15  # of the confidence, as in Guo et al. 2017, arXiv:1706.04599


class MulticlassMetrics(evaluate.Metric):
    """Accuracy, and precision, recall and F1 averaged over the classes, as one `evaluate` module.

    ``evaluate.load("f1")`` would fetch a script from the network, and the stock modules average as for two
    classes unless told otherwise.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int64")))
        return evaluate.MetricInfo(
            description=self.__doc__ or "", citation="", inputs_description="label ids", features=features
        )

    def _compute(self, predictions: Any, references: Any, classes: int) -> dict[str, float]:
        counts = confusion_matrix(references, predictions, labels=range(classes))
        return {name: float(value) for name, value in averages(counts).items()}


def classification_metrics(predictions: Ints, labels: Ints, classes: int) -> dict[str, float]:
    """The metrics that need predictions only.

    Args:
        predictions, labels: label ids, shape (n,).
        classes: number of classes, including those without a test review.
    """
    module = MulticlassMetrics(keep_in_memory=True, cache_dir=tempfile.gettempdir())
    result: dict[str, float] = module.compute(predictions=predictions, references=labels, classes=classes)
    return result


def by_class(counts: Ints) -> dict[str, Floats]:
    """Precision, recall and F1 of each class, shape (..., c); 0 where scikit-learn would divide by zero.

    Args:
        counts: confusion matrices, shape (..., c, c), rows: true label, columns: predicted.
    """
    hits, support = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1)
    predicted = counts.sum(axis=-2)
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + predicted, 1),
    }


def averages(counts: Ints) -> dict[str, Floats]:
    """Accuracy, and the weighted and macro averages of ``by_class``, shape (...), of the same matrices."""
    support = counts.sum(axis=-1)
    reviews = support.sum(axis=-1, keepdims=True)
    result = {"accuracy": np.diagonal(counts, axis1=-2, axis2=-1).sum(axis=-1) / reviews[..., 0]}
    for average, weights in (("weighted", support / reviews), ("macro", 1 / counts.shape[-1])):
        for name, values in by_class(counts).items():
            result[f"{name}_{average}"] = (values * weights).sum(axis=-1)
    return result


def evaluation_metrics(
    logits: Floats, labels: Ints, label_names: Sequence[str], seed: int, subsets: Mapping[str, Mask | None]
) -> dict[str, Any]:
    """Every number that the results file gives for a set of predictions.

    Args:
        logits: finite numbers, shape (n, classes).
        labels: shape (n,), columns of ``logits``.
        label_names: slugs by label id.
        seed: of the bootstrap.
        subsets: name -> which reviews belong to it, shape (n,), or None where that is not known.

    Returns:
        ``metrics`` (name -> value and interval), ``per_class`` (slug -> precision, recall, f1, support),
        ``confusion_matrix`` (rows: true label, columns: predicted), ``calibration`` and ``subsets``.
    """
    predictions, classes = logits.argmax(axis=1), len(label_names)
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    losses = -log_probabilities[np.arange(len(labels)), labels]
    counts = confusion_matrix(labels, predictions, labels=range(classes))
    values = classification_metrics(predictions, labels, classes) | {"loss": float(losses.mean())}
    intervals = bootstrap_intervals(counts, losses, seed)
    scores, right = by_class(counts), predictions == labels
    return {
        "metrics": {name: _entry(value, intervals[name]) for name, value in values.items()},
        "per_class": {
            name: {key: float(of[i]) for key, of in scores.items()} | {"support": int(counts[i].sum())}
            for i, name in enumerate(label_names)
        },
        "confusion_matrix": counts.tolist(),
        "calibration": calibration(np.exp(log_probabilities).max(axis=1), right),
        "subsets": {
            name: None if mask is None else subset_accuracy(right[mask]) for name, mask in subsets.items()
        },
    }


def _entry(value: float, interval: Any) -> dict[str, float]:
    return {"value": value, "low": float(interval[0]), "high": float(interval[1])}


def bootstrap_intervals(counts: Ints, losses: Floats, seed: int) -> dict[str, Floats]:
    """95 % percentile intervals (Efron & Tibshirani 1993, ch. 13) over resampled reviews.

    Resampling reviews draws the cells of their confusion matrix from a multinomial distribution.

    Args:
        counts: confusion matrix, shape (c, c).
        losses: loss of each review, shape (n,).
        seed: of the resampling.

    Returns:
        Metric name -> low and high.
    """
    rng, n = np.random.default_rng(seed), len(losses)
    drawn = averages(rng.multinomial(n, counts.ravel() / n, RESAMPLES).reshape(-1, *counts.shape))
    drawn["loss"] = np.array([losses[rng.integers(0, n, n)].mean() for _ in range(RESAMPLES)])
    tails = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    return {name: np.quantile(values, tails) for name, values in drawn.items()}


def calibration(confidence: Floats, right: Mask) -> dict[str, Any]:
    """Whether the model is right as often as it is confident.

    Args:
        confidence: probability of each prediction, shape (n,).
        right: whether each prediction is right, shape (n,).

    Returns:
        ``expected_calibration_error`` (mean distance between confidence and accuracy over the bins, weighted
        by their reviews), ``confidence`` (its mean), and the non-empty ``bins`` of equal width.
    """
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
    interval = binomtest(hits, n).proportion_ci(LEVEL, method="wilson") if n else ()
    return {"reviews": n, "accuracy": _entry(hits / n, interval) if n else None}

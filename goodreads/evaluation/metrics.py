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

RESAMPLES, SEED = 2_000, 42  # of the test reviews, for the intervals; equal logits give equal intervals
BINS = 15  # of the confidence, as in Guo et al. 2017, arXiv:1706.04599


class MulticlassMetrics(evaluate.Metric):
    """Accuracy, and precision, recall and F1 averaged over the classes, as one `evaluate` module.

    ``evaluate.load("f1")`` would fetch a script from the network, and the stock modules average as for two
    classes unless told otherwise.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(dict.fromkeys(("predictions", "references"), datasets.Value("int64")))
        return evaluate.MetricInfo(description=self.__doc__ or "", citation="", features=features)

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
    return dict(module.compute(predictions=predictions, references=labels, classes=classes))


def by_class(counts: Ints) -> dict[str, NDArray[Any]]:
    """Precision, recall, F1 and support of each class, shape (..., c); 0 where there is nothing to divide by.

    Args:
        counts: confusion matrices, shape (..., c, c), rows: true label, columns: predicted.
    """
    hits, support = np.diagonal(counts, axis1=-2, axis2=-1), counts.sum(axis=-1)
    predicted = counts.sum(axis=-2)
    return {
        "precision": hits / np.maximum(predicted, 1),
        "recall": hits / np.maximum(support, 1),
        "f1": 2 * hits / np.maximum(support + predicted, 1),
        "support": support,
    }


def averages(counts: Ints) -> dict[str, Floats]:
    """Accuracy, and the weighted and macro averages of ``by_class``, shape (...), of the same matrices."""
    scores, reviews = by_class(counts), counts.sum(axis=(-2, -1))
    shares = scores.pop("support") / reviews[..., None]
    result = {"accuracy": np.trace(counts, axis1=-2, axis2=-1) / reviews}
    for average, weights in (("weighted", shares), ("macro", 1 / counts.shape[-1])):
        result |= {f"{name}_{average}": (values * weights).sum(axis=-1) for name, values in scores.items()}
    return result


def evaluation_metrics(
    logits: Floats, labels: Ints, label_names: Sequence[str], subsets: Mapping[str, Mask | None]
) -> dict[str, Any]:
    """Every number that the results file gives for a set of predictions.

    Args:
        logits: finite numbers, shape (n, classes).
        labels: shape (n,), columns of ``logits``.
        label_names: slugs by label id.
        subsets: name -> which reviews belong to it, shape (n,), or None where that is not known.

    Returns:
        ``metrics`` (name -> value and interval), ``per_class`` (slug -> precision, recall, f1, support),
        ``confusion_matrix`` (rows: true label, columns: predicted), ``calibration``, and ``subsets`` (name ->
        number of reviews and accuracy) without those that are empty or not known.
    """
    predictions, classes = logits.argmax(axis=1), len(label_names)
    log_probabilities = log_softmax(logits.astype(np.float64), axis=1)
    losses, right = -log_probabilities[np.arange(len(labels)), labels], predictions == labels
    counts = confusion_matrix(labels, predictions, labels=range(classes))
    values = classification_metrics(predictions, labels, classes) | {"loss": float(losses.mean())}
    intervals, scores = bootstrap_intervals(counts, losses), by_class(counts)
    rows = zip(*(column.tolist() for column in scores.values()))
    masks = {name: mask for name, mask in subsets.items() if mask is not None and mask.any()}
    return {
        "metrics": {name: estimate(value, intervals[name]) for name, value in values.items()},
        "per_class": {name: dict(zip(scores, row)) for name, row in zip(label_names, rows)},
        "confusion_matrix": counts.tolist(),
        "calibration": calibration(np.exp(log_probabilities).max(axis=1), right),
        "subsets": {name: subset_accuracy(right[mask]) for name, mask in masks.items()},
    }


def estimate(value: float, interval: Any) -> dict[str, float]:
    """A number and its interval (low, high), as results files hold them."""
    return {"value": value, "low": float(interval[0]), "high": float(interval[1])}


def bootstrap_intervals(counts: Ints, losses: Floats) -> dict[str, Floats]:
    """95 % percentile intervals (Efron & Tibshirani 1993, ch. 13) over resampled reviews.

    Resampling reviews draws the cells of their confusion matrix from a multinomial distribution.

    Args:
        counts: confusion matrix, shape (c, c).
        losses: loss of each review, shape (n,).

    Returns:
        Metric name -> low and high.
    """
    rng, n = np.random.default_rng(SEED), len(losses)
    drawn = averages(rng.multinomial(n, counts.ravel() / n, RESAMPLES).reshape(-1, *counts.shape))
    drawn["loss"] = np.array([losses[rng.integers(0, n, n)].mean() for _ in range(RESAMPLES)])
    return {name: np.quantile(values, (0.025, 0.975)) for name, values in drawn.items()}


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
    bins = []
    for inside in (bin_of == number for number in np.unique(bin_of)):
        means = {"confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())}
        bins.append({"reviews": int(inside.sum()), **means})
    error = sum(part["reviews"] * abs(part["confidence"] - part["accuracy"]) for part in bins) / len(right)
    return {"expected_calibration_error": error, "confidence": float(confidence.mean()), "bins": bins}


def subset_accuracy(right: Mask) -> dict[str, Any]:
    """``reviews``, one or more, and their ``accuracy`` with Wilson's 95 % interval."""
    interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {"reviews": len(right), "accuracy": estimate(float(right.mean()), interval)}

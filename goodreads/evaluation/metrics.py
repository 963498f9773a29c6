"""Logits to figures: accuracy, precision, recall, F1 (weighted and macro) and loss, with intervals."""

import tempfile
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]

AVERAGES = ("weighted", "macro")
RESAMPLES = 2_000  # of the test reviews, for the intervals
LEVEL = 0.95


class MulticlassMetrics(evaluate.Metric):
    """Accuracy, and precision, recall and F1 averaged over the classes, as one `evaluate` module.

    It lives here because ``evaluate.load("f1")`` fetches a script from the network, and because the
    averaging must be said: the stock modules default to binary. scikit-learn computes.
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
        figures = {"accuracy": float(accuracy_score(references, predictions))}
        for average in AVERAGES:
            scores = precision_recall_fscore_support(
                references, predictions, labels=range(classes), average=average, zero_division=0
            )
            for name, value in zip(("precision", "recall", "f1"), scores):
                figures[f"{name}_{average}"] = float(value)
        return figures


def classification_metrics(predictions: Ints, labels: Ints, classes: int) -> dict[str, float]:
    """The metrics that need predictions only.

    Args:
        predictions, labels: label ids, shape (n,).
        classes: number of classes, those without a test review included.
    """
    module = MulticlassMetrics(keep_in_memory=True, cache_dir=tempfile.gettempdir())
    result: dict[str, float] = module.compute(predictions=predictions, references=labels, classes=classes)
    return result


def cross_entropy(logits: Floats, labels: Ints) -> Floats:
    """The loss of each review in nats, shape (n,), from logits of shape (n, classes)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels])


def figures(logits: Floats, labels: Ints, label_names: Sequence[str], seed: int) -> dict[str, Any]:
    """Everything that the results file says about a set of predictions.

    Args:
        logits: shape (n, classes).
        labels: shape (n,), columns of ``logits``.
        label_names: slugs by label id.
        seed: of the bootstrap.

    Returns:
        ``metrics`` (name -> value and interval), ``per_class`` (slug -> precision, recall, f1, support) and
        ``confusion_matrix`` (rows: true label, columns: predicted).
    """
    predictions, losses, classes = logits.argmax(axis=1), cross_entropy(logits, labels), len(label_names)
    values = classification_metrics(predictions, labels, classes) | {"loss": float(losses.mean())}
    intervals = bootstrap_intervals(predictions, labels, losses, classes, seed)
    per_class = precision_recall_fscore_support(labels, predictions, labels=range(classes), zero_division=0)
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
    }


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

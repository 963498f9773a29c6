import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from goodreads.evaluation import metrics

NAMES = [f"g{i}" for i in range(8)]


def some_predictions(n: int = 400, classes: int = 8) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes - 1, n)  # the last class has no reviews
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += 1
    return logits, labels, logits.argmax(axis=1)


def test_metrics_equal_those_of_scikit_learn_and_torch() -> None:
    logits, labels, predictions = some_predictions()
    found = metrics.evaluation_metrics(logits, labels, NAMES, 0, {})
    expected = {"accuracy": accuracy_score(labels, predictions)}
    known = {"labels": range(8), "zero_division": 0}
    for average in ("weighted", "macro"):
        scores = precision_recall_fscore_support(labels, predictions, average=average, **known)
        expected |= {f"{n}_{average}": value for n, value in zip(("precision", "recall", "f1"), scores)}
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits, dtype=torch.float64), torch.tensor(labels))
    expected["loss"] = loss.item()
    assert {name: entry["value"] for name, entry in found["metrics"].items()} == pytest.approx(expected)
    each = precision_recall_fscore_support(labels, predictions, **known)
    rows = [dict(zip(("precision", "recall", "f1", "support"), row)) for row in zip(*each)]
    assert list(found["per_class"].values()) == [pytest.approx(row) for row in rows]
    assert np.sum(found["confusion_matrix"]) == 400


def test_intervals_are_about_those_of_theory_and_repeatable() -> None:
    logits, labels, _ = some_predictions(2000)
    found = metrics.evaluation_metrics(logits, labels, NAMES, 3, {})["metrics"]
    accuracy, loss = found["accuracy"], found["loss"]
    losses = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), reduction="none")
    spread = math.sqrt(accuracy["value"] * (1 - accuracy["value"])), losses.std().item()
    for entry, deviation in zip((accuracy, loss), spread):
        half = 1.96 * deviation / math.sqrt(2000)
        assert entry["high"] - entry["value"] == pytest.approx(half, rel=0.1)
        assert entry["value"] - entry["low"] == pytest.approx(half, rel=0.1)
    assert metrics.evaluation_metrics(logits, labels, NAMES, 3, {})["metrics"] == found


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_the_largest_finite_logits_give_finite_metrics(value: float) -> None:
    logits, labels, _ = some_predictions(20)
    logits[7, 3] = value
    found = metrics.evaluation_metrics(logits, labels, NAMES, 0, {})
    assert all(math.isfinite(number) for entry in found["metrics"].values() for number in entry.values())
    assert math.isfinite(found["calibration"]["expected_calibration_error"])


def test_calibration_is_the_textbooks() -> None:
    logits, labels, predictions = some_predictions(500)
    confidence = torch.tensor(logits, dtype=torch.float64).softmax(1).max(1).values.numpy()
    right = predictions == labels
    found = metrics.calibration(confidence, right)
    bins = [(confidence >= i / 15) & (confidence < (i + 1) / 15) for i in range(15)]
    gaps = [b.mean() * abs(confidence[b].mean() - right[b].mean()) for b in bins if b.any()]
    assert found["expected_calibration_error"] == pytest.approx(sum(gaps))
    assert sum(entry["reviews"] for entry in found["bins"]) == 500
    assert metrics.calibration(np.ones(10), np.ones(10, bool))["expected_calibration_error"] == 0
    assert metrics.calibration(np.ones(10), np.zeros(10, bool))["expected_calibration_error"] == 1


def test_a_subset_has_its_accuracy_its_size_and_an_interval() -> None:
    logits, labels, predictions = some_predictions(100)
    subsets = {"first": np.arange(100) < 40, "none": np.zeros(100, bool), "unknown": None}
    found = metrics.evaluation_metrics(logits, labels, NAMES, 0, subsets)["subsets"]
    right = int((predictions == labels)[:40].sum())
    interval = binomtest(right, 40).proportion_ci(method="wilson")
    expected = {"value": right / 40, "low": interval.low, "high": interval.high}
    assert found["first"]["reviews"] == 40
    assert found["first"]["accuracy"] == pytest.approx(expected)
    assert found["none"] == {"reviews": 0, "accuracy": None}
    assert found["unknown"] is None

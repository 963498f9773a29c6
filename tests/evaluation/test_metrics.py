import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from goodreads.common.errors import CheckFailed
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
    for average in ("weighted", "macro"):
        expected = precision_recall_fscore_support(
            labels, predictions, labels=range(8), average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected):
            assert found["metrics"][f"{name}_{average}"]["value"] == pytest.approx(value)
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits, dtype=torch.float64), torch.tensor(labels))
    assert found["metrics"]["loss"]["value"] == pytest.approx(loss.item())
    assert found["per_class"]["g7"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert np.sum(found["confusion_matrix"]) == 400


def test_the_bootstrap_computes_the_reported_metrics() -> None:
    _, labels, predictions = some_predictions()
    counts = np.zeros((8, 8), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    expected = metrics.classification_metrics(predictions, labels, 8)
    assert metrics._from_confusion(counts) == pytest.approx(expected)


def test_the_accuracy_interval_is_about_the_binomial_one_and_repeatable() -> None:
    logits, labels, _ = some_predictions(2000)
    interval = metrics.evaluation_metrics(logits, labels, NAMES, 3, {})["metrics"]["accuracy"]
    half = 1.96 * math.sqrt(interval["value"] * (1 - interval["value"]) / 2000)
    assert interval["high"] - interval["value"] == pytest.approx(half, rel=0.1)
    assert interval["value"] - interval["low"] == pytest.approx(half, rel=0.1)
    assert metrics.evaluation_metrics(logits, labels, NAMES, 3, {})["metrics"]["accuracy"] == interval


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    logits, labels, _ = some_predictions(20)
    logits[7, 3] = value
    with pytest.raises(CheckFailed, match="logits of 1 of 20 reviews are not finite"):
        metrics.evaluation_metrics(logits, labels, NAMES, 0, {})


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_the_largest_finite_logits_give_finite_metrics(value: float) -> None:
    logits, labels, _ = some_predictions(20)
    logits[7, 3] = value
    found = metrics.evaluation_metrics(logits, labels, NAMES, 0, {})
    assert all(math.isfinite(number) for entry in found["metrics"].values() for number in entry.values())
    assert math.isfinite(found["calibration"]["expected_calibration_error"])


def test_calibration_is_the_textbooks() -> None:
    logits, labels, predictions = some_predictions(500)
    found = metrics.calibration(logits, predictions == labels)
    confidence = torch.tensor(logits, dtype=torch.float64).softmax(1).max(1).values.numpy()
    error = 0.0
    for i in range(15):
        inside = (confidence >= i / 15) & (confidence < (i + 1) / 15)
        if inside.any():
            gap = abs(confidence[inside].mean() - (predictions == labels)[inside].mean())
            error += inside.mean() * gap
    assert found["expected_calibration_error"] == pytest.approx(error)
    assert sum(entry["reviews"] for entry in found["bins"]) == 500
    sure = np.array([[9.0, -9.0]] * 10, dtype=np.float32)
    assert metrics.calibration(sure, np.ones(10, bool))["expected_calibration_error"] < 1e-6
    assert metrics.calibration(sure, np.zeros(10, bool))["expected_calibration_error"] == pytest.approx(1)


def test_a_subset_has_its_accuracy_its_size_and_an_interval() -> None:
    logits, labels, predictions = some_predictions(100)
    first = np.arange(100) < 40
    subsets = {"first": first, "none": np.zeros(100, bool), "unknown": None}
    found = metrics.evaluation_metrics(logits, labels, NAMES, 0, subsets)["subsets"]
    right = int((predictions == labels)[:40].sum())
    interval = binomtest(right, 40).proportion_ci(method="wilson")
    assert found["first"]["reviews"] == 40
    expected = {"value": right / 40, "low": interval.low, "high": interval.high}
    assert found["first"]["accuracy"] == pytest.approx(expected)
    assert found["none"] == {"reviews": 0, "accuracy": None}
    assert found["unknown"] is None

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from goodreads.evaluation import metrics

NAMES = [f"g{i}" for i in range(8)]


def some_predictions(n: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 7, n)  # the last class has no reviews
    logits = rng.normal(size=(n, 8)).astype(np.float32)
    logits[np.arange(n), labels] += 1
    return logits, labels, logits.argmax(axis=1) == labels


def test_metrics_are_those_of_scikit_learn_and_torch_and_intervals_those_of_theory() -> None:
    logits, labels, right = some_predictions(2000)
    found = metrics.evaluation_metrics(logits, labels, NAMES, {})
    assert metrics.evaluation_metrics(logits, labels, NAMES, {}) == found
    losses = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels), reduction="none")
    expected = {"accuracy": right.mean(), "loss": losses.mean().item()}
    known = {"labels": range(8), "zero_division": 0}
    columns = precision_recall_fscore_support(labels, logits.argmax(axis=1), **known)
    for average, weights in (("weighted", columns[3]), ("macro", None)):
        for name, column in zip(("precision", "recall", "f1"), columns):
            expected[f"{name}_{average}"] = np.average(column, weights=weights)
    assert {name: entry["value"] for name, entry in found["metrics"].items()} == pytest.approx(expected)
    rows = [dict(zip(("precision", "recall", "f1", "support"), row)) for row in zip(*columns)]
    assert list(found["per_class"].values()) == [pytest.approx(row) for row in rows]
    assert np.trace(found["confusion_matrix"]) == right.sum()
    for name, deviation in (("accuracy", right.std()), ("loss", losses.std().item())):
        entry, half = found["metrics"][name], 1.96 * deviation / math.sqrt(2000)
        ends = [entry["value"] - entry["low"], entry["high"] - entry["value"]]
        assert ends == pytest.approx([half, half], rel=0.1)


@pytest.mark.parametrize("value", [3e38, -3e38])
def test_the_largest_finite_logits_give_finite_metrics(value: float) -> None:
    logits, labels, _ = some_predictions(20)
    logits[7, 3] = value
    found = metrics.evaluation_metrics(logits, labels, NAMES, {})
    assert all(math.isfinite(number) for entry in found["metrics"].values() for number in entry.values())
    assert math.isfinite(found["calibration"]["expected_calibration_error"])


def test_calibration_is_the_textbooks() -> None:
    logits, _, right = some_predictions(500)
    confidence = torch.tensor(logits, dtype=torch.float64).softmax(1).max(1).values.numpy()
    found = metrics.calibration(confidence, right)
    bins = [(confidence >= i / 15) & (confidence < (i + 1) / 15) for i in range(15)]
    gaps = [b.mean() * abs(confidence[b].mean() - right[b].mean()) for b in bins if b.any()]
    assert found["expected_calibration_error"] == pytest.approx(sum(gaps))
    assert sum(entry["reviews"] for entry in found["bins"]) == 500
    for right, error in ((np.ones(10, bool), 0), (np.zeros(10, bool), 1)):
        assert metrics.calibration(np.ones(10), right)["expected_calibration_error"] == error


def test_a_subset_has_its_size_and_its_accuracy_with_an_interval() -> None:
    logits, labels, right = some_predictions(100)
    subsets = {"first": np.arange(100) < 40, "none": np.zeros(100, bool), "unknown": None}
    found = metrics.evaluation_metrics(logits, labels, NAMES, subsets)["subsets"]
    hits = int(right[:40].sum())
    interval = binomtest(hits, 40).proportion_ci(method="wilson")
    expected = {"value": hits / 40, "low": interval.low, "high": interval.high}
    assert found == {"first": {"reviews": 40, "accuracy": pytest.approx(expected)}}

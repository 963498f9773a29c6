"""Two evaluations held against each other, review by review: the proof that a copy is the model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from goodreads.common.errors import InputError
from goodreads.common.files import sha256_file

RESAMPLES = 10_000
# |logit difference| that another machine or number format may bring about; agreement of the predictions
TOLERANCE = {"float32": (1e-3, 0.999), "bfloat16": (0.25, 0.97)}


def compare(results_dir: Path, first: dict[str, Any], second: dict[str, Any], seed: int) -> dict[str, Any]:
    """Compare two evaluations of eval_results_NAME.json.

    Args:
        results_dir: where their predictions lie.
        first, second: the two documents.
        seed: of the bootstrap.

    Returns:
        ``verdict`` IDENTICAL (same weights, same logits to the last bit), EQUIVALENT (same weights, logits
        within the tolerance) or DIFFERENT, with ``reason``, and the figures behind it. For different
        weights also McNemar's exact test and a paired bootstrap interval of the accuracy difference.

    Raises:
        InputError: a predictions file is missing, or not the evaluation's.
    """
    a, b = (_predictions(results_dir, document) for document in (first, second))
    same = {
        "review_ids": a["review_id"].equals(b["review_id"]),
        "labels": first["labels"] == second["labels"] and a["label"].equals(b["label"]),
        "weights": first["model"]["weights_sha256"] == second["model"]["weights_sha256"],
    }
    document: dict[str, Any] = {
        "format": 1,
        "names": [first["name"], second["name"]],
        "same": same,
        "metrics": metric_rows(first, second),
    }
    if not (same["review_ids"] and same["labels"]):
        return document | {"verdict": "DIFFERENT", "reason": "they are not of the same reviews and labels"}
    dtype = "float32" if first["dtype"] == second["dtype"] == "float32" else "bfloat16"
    logits, agreement = TOLERANCE[dtype]
    columns = [f"logit_{label}" for label in first["labels"]]
    difference = max(float(np.abs(a[c].to_numpy() - b[c].to_numpy()).max()) for c in columns)
    agreed = float((a["prediction"].to_numpy() == b["prediction"].to_numpy()).mean())
    document |= {
        "reviews": a.num_rows,
        "argmax_agreement": agreed,
        "max_abs_logit_difference": difference,
        "tolerance": {"dtype": dtype, "max_abs_logit_difference": logits, "argmax_agreement": agreement},
    }
    if not same["weights"]:
        first_right, second_right = (t["prediction"].to_numpy() == t["label"].to_numpy() for t in (a, b))
        verdict, why = "DIFFERENT", "the weights are not the same"
        document["mcnemar"] = mcnemar(first_right, second_right)
        document["accuracy_difference"] = accuracy_difference(first_right, second_right, seed)
    elif difference == 0:
        verdict, why = "IDENTICAL", "same weights, same reviews, every logit equal to the last bit"
    elif difference <= logits and agreed >= agreement:
        verdict, why = "EQUIVALENT", f"same weights, logits within {logits} of each other ({dtype})"
    else:
        verdict, why = "DIFFERENT", f"same weights, but logits differ by {difference:.3g}"
    return document | {"verdict": verdict, "reason": why}


def _predictions(results_dir: Path, document: dict[str, Any]) -> Any:
    path = results_dir / f"predictions_{document['name']}.parquet"
    if not path.is_file() or sha256_file(path) != document["predictions_sha256"]:
        raise InputError(f"{path} is not that of its eval_results; run python evaluate_model.py again")
    return pq.read_table(path)


def metric_rows(first: dict[str, Any], second: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Metric name -> the two values and second minus first."""
    return {
        name: {"first": a, "second": b, "difference": b - a}
        for name in first["metrics"]
        for a, b in [(first["metrics"][name]["value"], second["metrics"][name]["value"])]
    }


def mcnemar(first: Any, second: Any) -> dict[str, float]:
    """McNemar's exact test (1947; binomial form) on two boolean arrays: which reviews each got right."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    return {"only_first_right": only_first, "only_second_right": only_second, "p_value": min(1.0, 2 * tail)}


def accuracy_difference(first: Any, second: Any, seed: int) -> dict[str, float]:
    """Second minus first accuracy, with a 95 % paired bootstrap interval over the reviews."""
    gain = second.astype(np.int64) - first.astype(np.int64)
    rng, n = np.random.default_rng(seed), len(gain)
    shares = [np.mean(gain == value) for value in (-1, 0, 1)]
    draws = rng.multinomial(n, shares, RESAMPLES)  # resampling n reviews draws these three counts
    low, high = np.quantile((draws[:, 2] - draws[:, 0]) / n, (0.025, 0.975))
    return {"value": float(gain.mean()), "low": float(low), "high": float(high)}

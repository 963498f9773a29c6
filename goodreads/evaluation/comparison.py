"""Evaluations compared review by review: the proof that a copy is the model, and which model is better."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import binomtest

from goodreads.common.files import atomic_files, locked, write_json, write_text
from goodreads.evaluation.metrics import Mask
from goodreads.evaluation.results import METRICS, origin, read, read_predictions, reviews, title

RESAMPLES = 10_000
# |logit difference| between machines or number formats that is tolerated; agreement of the predictions
TOLERANCE = {"float32": (1e-3, 0.999), "bfloat16": (0.25, 0.97)}


def compare(results_dir: Path, first: str, second: str, seed: int) -> dict[str, Any]:
    """Compare two evaluations in a folder.

    Args:
        results_dir: where their files are.
        first, second: their names.
        seed: of the bootstrap.

    Returns:
        ``verdict`` IDENTICAL (same weights, same logits to the last bit), EQUIVALENT (same weights, logits
        within the tolerance) or DIFFERENT, with ``reason``, and the numbers behind it. For different
        weights also McNemar's exact test and a paired bootstrap interval of the accuracy difference.

    Raises:
        InputError: a file is missing, damaged, or not that of its evaluation.
    """
    one, two = read(results_dir, first), read(results_dir, second)
    a, b = read_predictions(results_dir, first, one), read_predictions(results_dir, second, two)
    weights = one["model"]["weights_sha256"]
    same = {
        "review_ids": a["review_id"].equals(b["review_id"]),
        "labels": one["labels"] == two["labels"] and a["label"].equals(b["label"]),
        "weights": weights is not None and weights == two["model"]["weights_sha256"],
    }
    values = {name: (one["metrics"][name]["value"], two["metrics"][name]["value"]) for name in METRICS}
    document: dict[str, Any] = {
        "format": 1,
        "names": [first, second],
        "same": same,
        "metrics": {n: {"first": x, "second": y, "difference": y - x} for n, (x, y) in values.items()},
    }
    if not (same["review_ids"] and same["labels"]):
        return document | {"verdict": "DIFFERENT", "reason": "they are not of the same reviews and labels"}
    dtype = "float32" if one["dtype"] == two["dtype"] == "float32" else "bfloat16"
    document |= agreement(a, b, one["labels"], dtype)
    if not same["weights"]:
        first_right, second_right = (np.equal(t["prediction"], t["label"]) for t in (a, b))
        document["mcnemar"] = mcnemar(first_right, second_right)
        document["accuracy_difference"] = accuracy_difference(first_right, second_right, seed)
    return document | _verdict(document)


def agreement(a: pa.Table, b: pa.Table, labels: Sequence[str], dtype: str) -> dict[str, Any]:
    """How far two tables of predictions of the same reviews agree, and how far they must."""
    one, two = _logits(a, labels), _logits(b, labels)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        distance = np.abs(one.astype(np.float64) - two)
    finite = bool(np.isfinite(distance).all())
    return {
        "reviews": a.num_rows,
        "argmax_agreement": float(np.equal(a["prediction"], b["prediction"]).mean()),
        "logits_equal": finite and np.array_equal(one, two),
        "max_abs_logit_difference": float(distance.max()) if finite else None,
        "tolerance": {
            "dtype": dtype,
            **dict(zip(("max_abs_logit_difference", "argmax_agreement"), TOLERANCE[dtype])),
        },
    }


def _logits(table: pa.Table, labels: Sequence[str]) -> NDArray[np.float32]:
    return np.stack([table[f"logit_{label}"].to_numpy() for label in labels], axis=1)


def _verdict(document: dict[str, Any]) -> dict[str, str]:
    tolerance, distance = document["tolerance"], document["max_abs_logit_difference"]
    if distance is None:  # NaN is equal to nothing, not even to NaN
        return {"verdict": "DIFFERENT", "reason": "some logits are not finite numbers"}
    if not document["same"]["weights"]:
        return {"verdict": "DIFFERENT", "reason": "the weights are not the same"}
    if document["logits_equal"]:
        reason = "same weights, same reviews, every logit equal to the last bit"
        return {"verdict": "IDENTICAL", "reason": reason}
    limit = tolerance["max_abs_logit_difference"]
    if distance <= limit and document["argmax_agreement"] >= tolerance["argmax_agreement"]:
        reason = f"same weights, logits within {limit} of each other ({tolerance['dtype']})"
        return {"verdict": "EQUIVALENT", "reason": reason}
    return {"verdict": "DIFFERENT", "reason": f"same weights, but logits differ by {distance:.3g}"}


def compare_all(results_dir: Path, names: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """``compare`` for every pair, with ``p_holm`` (Holm 1979) over their McNemar tests.

    Raises:
        InputError: as ``compare``.
    """
    pairs = [compare(results_dir, a, b, seed) for a, b in combinations(names, 2)]
    tests = sorted((pair["mcnemar"] for pair in pairs if "mcnemar" in pair), key=lambda t: t["p_value"])
    largest = 0.0
    for rank, test in enumerate(tests):
        largest = max(largest, min(1.0, (len(tests) - rank) * test["p_value"]))
        test["p_holm"] = largest
    return pairs


def mcnemar(first: Mask, second: Mask) -> dict[str, Any]:
    """McNemar's exact test (1947) on which reviews each got right, two arrays of shape (n,)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    n = only_first + only_second
    p = float(binomtest(only_first, n).pvalue) if n else 1.0
    return {"only_first_right": only_first, "only_second_right": only_second, "p_value": p}


def accuracy_difference(first: Mask, second: Mask, seed: int) -> dict[str, float]:
    """Second minus first accuracy, with a 95 % paired bootstrap interval over the reviews."""
    gain = second.astype(np.int64) - first.astype(np.int64)
    rng, n = np.random.default_rng(seed), len(gain)
    shares = [np.mean(gain == value) for value in (-1, 0, 1)]
    draws = rng.multinomial(n, shares, RESAMPLES)  # resampling n reviews draws these three counts
    low, high = np.quantile((draws[:, 2] - draws[:, 0]) / n, (0.025, 0.975))
    return {"value": float(gain.mean()), "low": float(low), "high": float(high)}


def markdown(evaluations: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]]) -> str:
    """The reference's Table 2 for some evaluations, what their pairs show, and where they come from.

    Args:
        evaluations: two or more, in order.
        pairs: from ``compare_all`` of them.
    """
    names = [title(document["name"]) for document in evaluations]
    two = len(evaluations) == 2
    heads = ["Metric", *names, *(["Diff"] if two else [])]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, label in METRICS.items():
        values = [document["metrics"][key]["value"] for document in evaluations]
        values += [values[1] - values[0]] if two else []
        lines.append(f"| {' | '.join([label, *(f'{value:.4f}' for value in values)])} |")
    for pair in pairs:
        lines += ["", _sentence(pair)]
    lines += ["", *(f"- {title(d['name'])}: {origin(d)}; {reviews(d)}." for d in evaluations)]
    return "\n".join(lines)


def write(results_dir: Path, pairs: Sequence[dict[str, Any]]) -> str:
    """Write comparison_A_B[...].json and .md, of local and hub also as comparison.*; the table as text."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair["names"]))
    text = markdown([read(results_dir, name) for name in names], pairs)
    document = pairs[0] if len(pairs) == 1 else {"format": 1, "names": names, "pairs": list(pairs)}
    with locked(results_dir), atomic_files(results_dir) as folder:
        for stem in [f"comparison_{'_'.join(names)}"] + ["comparison"] * (names == ["local", "hub"]):
            write_json(folder / f"{stem}.json", document)
            write_text(folder / f"{stem}.md", text + "\n")
    return text


def _sentence(pair: dict[str, Any]) -> str:
    """What a comparison found, in words."""
    first, second = (title(name) for name in pair["names"])
    text = f"{first} and {second}: {pair['verdict']}: {pair['reason']}."
    if pair.get("max_abs_logit_difference") is not None:
        text += (
            f" {pair['reviews']:,} reviews, predictions agree on {pair['argmax_agreement']:.2%}, "
            f"largest logit difference {pair['max_abs_logit_difference']:.3g}."
        )
    if "mcnemar" in pair:
        test, gain = pair["mcnemar"], pair["accuracy_difference"]
        text += (
            f" Accuracy of {second} minus {first}: {gain['value']:+.4f} ({gain['low']:+.4f} to "
            f"{gain['high']:+.4f}); McNemar: {first} alone right on {test['only_first_right']}, {second} "
            f"alone on {test['only_second_right']}, p = {test['p_value']:.3g}"
            f"{', with Holm ' + format(test['p_holm'], '.3g') if test['p_holm'] != test['p_value'] else ''}."
        )
    return text

"""Evaluations compared review by review: the proof that a copy is the model, and which model is better."""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest

from goodreads.common.files import atomic_files, locked, write_json, write_text
from goodreads.evaluation.metrics import Mask
from goodreads.evaluation.results import METRICS, notes, read, read_predictions, title

RESAMPLES = 10_000
COPY = ["local", "hub"]  # evaluations that should be of the same model
# |logit difference| between machines or number formats that is tolerated; agreement of the predictions
TOLERANCE = {"float32": (1e-3, 0.999), "bfloat16": (0.25, 0.97)}
Document = dict[str, Any]


def compare(results_dir: Path, first: str, second: str, seed: int) -> Document:
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
    a, b = read_predictions(results_dir, one), read_predictions(results_dir, two)
    weights = one["model"]["weights_sha256"]
    same = {
        "review_ids": a["review_id"].equals(b["review_id"]),
        "labels": one["labels"] == two["labels"] and a["label"].equals(b["label"]),
        "weights": weights is not None and weights == two["model"]["weights_sha256"],
    }
    values = {name: (one["metrics"][name]["value"], two["metrics"][name]["value"]) for name in METRICS}
    differences = {n: {"first": x, "second": y, "difference": y - x} for n, (x, y) in values.items()}
    document = {"format": 1, "names": [first, second], "same": same, "metrics": differences}
    if same["review_ids"] and same["labels"]:
        dtype = "float32" if one["dtype"] == two["dtype"] == "float32" else "bfloat16"
        document |= _agreement(a, b, dtype)
        if not same["weights"]:
            first_right, second_right = (np.equal(t["prediction"], t["label"]) for t in (a, b))
            document |= paired_tests(first_right, second_right, seed)
    verdict, reason = _verdict(document)
    return document | {"verdict": verdict, "reason": reason}


def _agreement(a: pa.Table, b: pa.Table, dtype: str) -> Document:
    """How far two tables of predictions of the same reviews agree, and how far they must."""
    one, two = (np.stack([column.to_numpy() for column in table.columns[3:]]) for table in (a, b))
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        distance = np.abs(one.astype(np.float64) - two)
    finite = bool(np.isfinite(distance).all())
    limits = dict(zip(("max_abs_logit_difference", "argmax_agreement"), TOLERANCE[dtype]))
    return {
        "reviews": a.num_rows,
        "argmax_agreement": float(np.equal(a["prediction"], b["prediction"]).mean()),
        "logits_equal": finite and np.array_equal(one, two),
        "max_abs_logit_difference": float(distance.max()) if finite else None,
        "tolerance": {"dtype": dtype, **limits},
    }


def _verdict(document: Document) -> tuple[str, str]:
    """The verdict and its reason."""
    if "tolerance" not in document:
        return "DIFFERENT", "they are not of the same reviews and labels"
    tolerance, distance = document["tolerance"], document["max_abs_logit_difference"]
    if distance is None:  # NaN is equal to nothing, not even to NaN
        return "DIFFERENT", "some logits are not finite numbers"
    if not document["same"]["weights"]:
        return "DIFFERENT", "the weights are not the same"
    if document["logits_equal"]:
        return "IDENTICAL", "same weights, same reviews, every logit equal to the last bit"
    limit = tolerance["max_abs_logit_difference"]
    if distance <= limit and document["argmax_agreement"] >= tolerance["argmax_agreement"]:
        return "EQUIVALENT", f"same weights, logits within {limit} of each other ({tolerance['dtype']})"
    return "DIFFERENT", f"same weights, but logits differ by {distance:.3g}"


def paired_tests(first: Mask, second: Mask, seed: int) -> Document:
    """Which of two models is better, from the reviews that each got right, two arrays of shape (n,).

    Returns:
        ``mcnemar`` (McNemar's exact test, 1947), and ``accuracy_difference`` (second minus first, with a 95 %
        bootstrap interval, paired by review).
    """
    lost, won, n = int((first & ~second).sum()), int((second & ~first).sum()), len(first)
    p = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    # resampling n reviews draws these three counts
    draws = np.random.default_rng(seed).multinomial(n, np.array([lost, won, n - lost - won]) / n, RESAMPLES)
    low, high = np.quantile((draws[:, 1] - draws[:, 0]) / n, (0.025, 0.975))
    return {
        "mcnemar": {"only_first_right": lost, "only_second_right": won, "p_value": p},
        "accuracy_difference": {"value": (won - lost) / n, "low": float(low), "high": float(high)},
    }


def compare_all(results_dir: Path, names: Sequence[str], seed: int) -> list[Document]:
    """``compare`` for every pair, with ``p_holm`` (Holm 1979) over their McNemar tests.

    Raises:
        InputError: as ``compare``.
    """
    pairs = [compare(results_dir, a, b, seed) for a, b in combinations(names, 2)]
    tests = sorted((pair["mcnemar"] for pair in pairs if "mcnemar" in pair), key=lambda t: t["p_value"])
    corrected = [min(1.0, (len(tests) - rank) * test["p_value"]) for rank, test in enumerate(tests)]
    for test, p in zip(tests, np.maximum.accumulate(corrected) if tests else ()):
        test["p_holm"] = float(p)
    return pairs


def write(results_dir: Path, pairs: Sequence[Document]) -> str:
    """Write comparison_A_B[...].json and .md, of local and hub also as comparison.*; the table as text."""
    names = list(dict.fromkeys(name for pair in pairs for name in pair["names"]))
    text = markdown([read(results_dir, name) for name in names], pairs)
    document = pairs[0] if len(pairs) == 1 else {"format": 1, "names": names, "pairs": list(pairs)}
    with locked(results_dir), atomic_files(results_dir) as folder:
        for stem in [f"comparison_{'_'.join(names)}"] + ["comparison"] * (names == COPY):
            write_json(folder / f"{stem}.json", document)
            write_text(folder / f"{stem}.md", text + "\n")
    return text


def markdown(evaluations: Sequence[Document], pairs: Sequence[Document]) -> str:
    """The reference's Table 2 for some evaluations, what their pairs show, and where they come from."""
    names = [title(document["name"]) for document in evaluations]
    heads = ["Metric", *names] + ["Diff"] * (len(names) == 2)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, label in METRICS.items():
        values = [document["metrics"][key]["value"] for document in evaluations]
        values += [values[1] - values[0]] * (len(names) == 2)
        lines.append(f"| {' | '.join([label, *(f'{value:.4f}' for value in values)])} |")
    for pair in pairs:
        lines += ["", _sentence(pair)]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(evaluations))])


def _sentence(pair: Document) -> str:
    """What a comparison found, in words."""
    first, second = (title(name) for name in pair["names"])
    text = f"{first} and {second}: {pair['verdict']}: {pair['reason']}."
    if pair.get("max_abs_logit_difference") is not None:
        text += f" {pair['reviews']:,} reviews, predictions agree on {pair['argmax_agreement']:.2%}, "
        text += f"largest logit difference {pair['max_abs_logit_difference']:.3g}."
    if "mcnemar" in pair:
        gain, p = pair["accuracy_difference"], pair["mcnemar"]["p_holm"]
        text += f" Accuracy of {second} minus {first}: {gain['value']:+.4f} ({gain['low']:+.4f} to "
        text += f"{gain['high']:+.4f}), p = {p:.3g} (McNemar's exact test, Holm's correction)."
    return text

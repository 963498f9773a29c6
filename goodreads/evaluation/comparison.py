"""Evaluations compared review by review: the proof that a copy is the model, and which model is better."""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
from scipy.stats import binomtest

from goodreads.common.errors import CheckFailed
from goodreads.common.files import atomic_files, locked, write_json, write_text
from goodreads.evaluation.metrics import SEED, Mask, estimate
from goodreads.evaluation.results import METRICS, Document, notes, read, read_predictions, title

COPY = ["local", "hub"]  # evaluations that should be of the same model
# |logit difference| and agreement of predictions between machines, and where a number format is less exact
FLOAT32, LESS_EXACT = (1e-3, 0.999), (0.25, 0.97)


def compare(results_dir: Path, names: list[str]) -> list[Document]:
    """Compare every pair of some evaluations in a folder.

    Returns:
        Per pair ``verdict`` IDENTICAL (same weights, same logits to the last bit), EQUIVALENT (same weights,
        logits within the tolerance) or DIFFERENT, with ``reason``, and the numbers behind it. For different
        weights also what ``paired_tests`` finds, and ``p_holm`` (Holm 1979) over the tests of all pairs.

    Raises:
        InputError: a file is missing, damaged, or not that of its evaluation.
    """
    documents = [read(results_dir, name) for name in names]
    tables = [read_predictions(results_dir, document) for document in documents]
    pairs = [_compare(*one, *two) for one, two in combinations(zip(documents, tables), 2)]
    tests = sorted((pair["mcnemar"] for pair in pairs if "mcnemar" in pair), key=lambda t: t["p_value"])
    p = 0.0
    for rank, test in enumerate(tests):
        test["p_holm"] = p = max(p, min(1.0, (len(tests) - rank) * test["p_value"]))
    return pairs


def _compare(one: Document, a: pa.Table, two: Document, b: pa.Table) -> Document:
    """Compare two evaluations, each given by its document and its table of predictions."""
    weights = one["model"]["weights_sha256"]
    same = {
        "review_ids": a["review_id"].equals(b["review_id"]),
        "labels": one["labels"] == two["labels"] and a["label"].equals(b["label"]),
        "weights": weights is not None and weights == two["model"]["weights_sha256"],
    }
    values = {name: (one["metrics"][name]["value"], two["metrics"][name]["value"]) for name in METRICS}
    differences = {n: {"first": x, "second": y, "difference": y - x} for n, (x, y) in values.items()}
    pair = {"format": 1, "names": [one["name"], two["name"]], "same": same, "metrics": differences}
    if not (same["review_ids"] and same["labels"]):
        return pair | {"verdict": "DIFFERENT", "reason": "they are not of the same reviews and labels"}
    if not same["weights"]:
        pair |= paired_tests(*(np.equal(table["prediction"], table["label"]) for table in (a, b)))
    first, second = (np.stack([c.to_numpy() for c in t.columns[3:]]).astype(np.float64) for t in (a, b))
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        distance = float(np.abs(first - second).max())  # NaN is equal to nothing, not even to NaN
    agreement = float(np.equal(a["prediction"], b["prediction"]).mean())
    limit, least = FLOAT32 if one["dtype"] == two["dtype"] == "float32" else LESS_EXACT
    verdicts = (
        (not math.isfinite(distance), "DIFFERENT", "some logits are not finite numbers"),
        (not same["weights"], "DIFFERENT", "the weights are not the same"),
        (distance == 0, "IDENTICAL", "same weights, same reviews, every logit equal to the last bit"),
        (distance <= limit and agreement >= least, "EQUIVALENT", f"same weights, logits within {limit}"),
        (True, "DIFFERENT", f"same weights, but logits differ by {distance:.3g}"),
    )
    _, verdict, reason = next(row for row in verdicts if row[0])
    return pair | {
        **{"verdict": verdict, "reason": reason, "reviews": a.num_rows, "argmax_agreement": agreement},
        "max_abs_logit_difference": distance if math.isfinite(distance) else None,
        "tolerance": {"max_abs_logit_difference": limit, "argmax_agreement": least},
    }


def paired_tests(first: Mask, second: Mask) -> Document:
    """Which of two models is better, from the reviews that each got right, two arrays of shape (n,).

    Returns:
        ``mcnemar`` (McNemar's exact test, 1947), and ``accuracy_difference`` (second minus first, with a 95 %
        bootstrap interval, paired by review).
    """
    lost, won, n = int((first & ~second).sum()), int((second & ~first).sum()), len(first)
    p = float(binomtest(lost, lost + won).pvalue) if lost + won else 1.0
    # resampling n reviews draws these three counts
    draws = np.random.default_rng(SEED).multinomial(n, np.array([lost, won, n - lost - won]) / n, 10_000)
    interval = np.quantile((draws[:, 1] - draws[:, 0]) / n, (0.025, 0.975))
    return {
        "mcnemar": {"only_first_right": lost, "only_second_right": won, "p_value": p},
        "accuracy_difference": estimate((won - lost) / n, interval),
    }


def write(results_dir: Path, names: list[str], pairs: list[Document]) -> str:
    """Write comparison_A_B[...].json and .md, of local and hub also as comparison.*; the table as text."""
    text = markdown([read(results_dir, name) for name in names], pairs)
    document = pairs[0] if len(pairs) == 1 else {"format": 1, "names": names, "pairs": pairs}
    with locked(results_dir), atomic_files(results_dir) as folder:
        for stem in [f"comparison_{'_'.join(names)}"] + ["comparison"] * (names == COPY):
            write_json(folder / f"{stem}.json", document)
            write_text(folder / f"{stem}.md", text + "\n")
    return text


def check_same(pairs: list[Document]) -> None:
    """Raise CheckFailed if two evaluations are DIFFERENT."""
    for pair in pairs:
        if pair["verdict"] == "DIFFERENT":
            raise CheckFailed(f"{' and '.join(pair['names'])} are DIFFERENT: {pair['reason']}")


def markdown(evaluations: list[Document], pairs: list[Document]) -> str:
    """The reference's Table 2 for some evaluations, what their pairs show, and where they come from."""
    heads = ["Metric", *(title(document["name"]) for document in evaluations)] + ["Diff"] * (len(pairs) == 1)
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, label in METRICS.items():
        values = [document["metrics"][key]["value"] for document in evaluations]
        values += [pair["metrics"][key]["difference"] for pair in pairs if len(pairs) == 1]
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
        text += f" Accuracy of {gain(pair)} (McNemar's exact test, Holm's correction)."
    return text


def gain(pair: Document) -> str:
    """How much more accurate the second of two models is, in figures."""
    first, second = (title(name) for name in pair["names"])
    (value, low, high), p = pair["accuracy_difference"].values(), pair["mcnemar"]["p_holm"]
    return f"{second} minus {first}: {value:+.4f} ({low:+.4f} to {high:+.4f}), p = {p:.3g}"

"""The pictures of results, drawn at the width of a text column to be read there.

Each function takes documents of results files and returns a figure whose title says what it shows and whose
last line says of what: model, repository and commit, reviews and date.
"""

from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import seaborn as sns

from goodreads.evaluation.results import METRICS, genre_names, origin, reviews, title

mpl.use("Agg")  # no screen needed
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette (https://jfly.uni-koeln.de/color/): told apart with any colour vision, and in grey
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BLUE, ORANGE, GREEN = COLORS[:3]
GREY = "#555555"
WIDTH = 6.6  # inches
SMALL = 7.0  # points; nothing is smaller
STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "pdf.fonttype": 42,
}
SCORES = [name for name in METRICS if name != "loss"]
REFERENCE = 0.5538  # accuracy in the reference's report, for its eight genres and its draw
PROTOCOL = {"head": 10_000, "per_genre": 1_000, "train_per_genre": 800, "seed": 42}
Document = dict[str, Any]


def training_curve(record: Document, data: str) -> "Figure":
    """Loss per logged step and per epoch, and accuracy per epoch, of training_log.json.

    Args:
        record: the log.
        data: what kind of reviews it trained on.
    """
    rows, steps = record["epochs"], record.get("losses", [])
    best = str(record.get("best_checkpoint") or "").rpartition("-")[2]
    saved = next((row for row in rows if best == str(row["step"])), rows[-1])
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.9), layout="constrained")
        if steps:
            axes[0].plot(*_column(steps, "loss"), color=BLUE, alpha=0.35, lw=0.8, label="Training, per step")
        for part, color, style in (
            ("Training", BLUE, "o-"),
            ("Validation", GREEN, "^:"),
            ("Test", ORANGE, "s--"),
        ):
            label = f"{part}, selects the epoch" if part == "Validation" and best else part
            for place, metric in zip(axes, ("loss", "accuracy")):
                key = f"{part.lower().replace('training', 'train')}_{metric}"
                if any(key in row for row in rows):
                    place.plot(*_column(rows, key), style, color=color, ms=4, lw=1.2, label=label)
        for place, name in zip(axes, ("loss", "accuracy")):
            low, high = place.dataLim.intervaly if place.lines else (0.0, 1.0)
            middle, half = (low + high) / 2, max(0.65 * (high - low), 0.1)  # no axis of a thousandth
            limits = (0, 1.08 * high) if name == "loss" else (max(0, middle - half), min(1, middle + half))
            place.axvline(saved["epoch"], color=GREY, lw=0.8, ls=(0, (1, 2)), label="Saved")
            place.set(ylim=limits, xlabel="Epoch", ylabel=name.capitalize())
            place.set_xlim(0 if steps else 0.8, rows[-1]["epoch"] + 0.2)
            place.xaxis.set_major_locator(mpl.ticker.MaxNLocator("auto", integer=True))
            place.grid(alpha=0.3)
        values = [
            f"{key.replace('_', ' ')} {saved[key]:.3f}"
            for key in ("test_accuracy", "test_loss")
            if key in saved
        ]
        finding = f"Epoch {saved['epoch']} of {len(rows)} is saved: {', '.join(values) or 'not evaluated'}"
        model, code = record["settings"]["model_name_or_path"].rpartition("/")[2], record.get("git_commit")
        digest = record["model"]["files_sha256"].get("model.safetensors", "unknown")[:8]
        note = (
            f"{model} fine-tuned (weights {digest}) on {record['data']['train_reviews']:,} {data}; "
            f"{record['created'][:10]}{f' by code at commit {code[:10]}' if code else ''}"
        )
        return _finished(figure, finding, [note], axes[0])


def _column(rows: Sequence[dict[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Epochs and values of the rows that have ``key``."""
    kept = [row for row in rows if key in row]
    return [row["epoch"] for row in kept], [row[key] for row in kept]


def confusion(result: Document) -> "Figure":
    """The confusion matrix in per cent of each true genre; empty where nothing was confused."""
    counts, names = np.array(result["confusion_matrix"]), genre_names(result["labels"])
    support = counts.sum(axis=1, keepdims=True)
    shares = 100 * counts / np.maximum(support, 1)
    texts = np.where(counts > 0, np.char.mod("%.1f", shares), "")
    off = np.where(np.eye(len(names), dtype=bool), -1, shares)
    true, taken = np.unravel_index(off.argmax(), off.shape)
    most = f"most often, {names[true]} is taken for {names[taken]}\u00a0({off.max():.1f}\u00a0%)"
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 1.9 + 0.42 * len(names)), layout="constrained")
        sns.heatmap(
            shares, annot=texts, fmt="", cmap="Blues", vmin=0, vmax=100, linewidths=0.5, ax=axes,
            xticklabels=names, yticklabels=[f"{name} ({n})" for name, n in zip(names, support[:, 0])],
            annot_kws={"size": 7.5}, cbar_kws={"label": "% of the true genre"},
        )  # fmt: skip
        axes.set(xlabel="Predicted genre", ylabel="True genre (reviews)")
        axes.tick_params("y", rotation=0)
        axes.set_xticks(axes.get_xticks(), names, rotation=30, ha="right", rotation_mode="anchor")
        accuracy = f"{title(result['name'])}: accuracy {result['metrics']['accuracy']['value']:.3f}"
        return _finished(
            figure, f"{accuracy}; {most if off.max() > 0 else 'nothing is confused'}", _notes([result])
        )


def per_genre(results: Sequence[Document]) -> "Figure":
    """Precision, recall and F1 of each genre, of one evaluation or of several side by side."""
    labels, thick = results[0]["labels"], 0.8 / len(results)
    place = np.arange(len(labels))
    height = 1.5 + len(labels) * max(0.3, 0.17 * len(results))
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(WIDTH, height), sharey=True, layout="constrained")
        for panel, (key, name) in zip(axes, (("precision", "Precision"), ("recall", "Recall"), ("f1", "F1"))):
            for i, result in enumerate(results):
                values = [result["per_class"][label][key] for label in labels]
                bars = panel.barh(
                    place + thick * (i + 0.5) - 0.4,
                    values,
                    thick,
                    color=COLORS[i],
                    label=title(result["name"]),
                )
                panel.bar_label(bars, fmt="%.2f", fontsize=SMALL, padding=2)
            _thresholds(panel, results[0])
            panel.set(xlim=(0, 1.2), xlabel=name, xticks=(0, 0.5, 1))
        axes[0].set_yticks(place, genre_names(labels))
        axes[0].invert_yaxis()
        rows = results[0]["per_class"]
        best, worst = (pick(labels, key=lambda label: rows[label]["f1"]) for pick in (max, min))
        (high, low), f1 = genre_names([best, worst]), [rows[label]["f1"] for label in (best, worst)]
        finding = f"{high} is recognized best (F1 {f1[0]:.2f}), {low} worst ({f1[1]:.2f})"
        if f1[0] - f1[1] < 0.005:
            finding = f"all genres are recognized equally well (F1 {f1[0]:.2f})"
        return _finished(figure, f"{title(results[0]['name'])}: {finding}", _notes(results), axes[0])


def overall(result: Document) -> "Figure":
    """The headline scores with their 95 % intervals; the loss, on another scale, in words."""
    accuracy, loss = result["metrics"]["accuracy"], result["metrics"]["loss"]
    with mpl.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(WIDTH, 2.4), layout="constrained")
        _interval_bars(axes, [result])
        times = accuracy["value"] * len(result["labels"])
        finding = f"{title(result['name'])}: accuracy {accuracy['value']:.3f}, {times:.1f} times chance"
        finding += f"; loss {loss['value']:.3f} ({loss['low']:.3f} to {loss['high']:.3f})"
        return _finished(figure, finding, _notes([result]), axes)


def comparison(results: Sequence[Document], pairs: Sequence[Document]) -> "Figure":
    """Scores and loss of several evaluations, and the paired differences of their accuracies.

    Args:
        results: two or more.
        pairs: what ``comparison.compare_all`` found.
    """
    tested = [pair for pair in pairs if "accuracy_difference" in pair]
    heights = [1.1 + 0.55 * len(results), 0.5 + 0.25 * len(tested)]
    with mpl.rc_context(STYLE):
        figure = plt.figure(
            figsize=(WIDTH, 1.0 + heights[0] + heights[1] * bool(tested)), layout="constrained"
        )
        grid = figure.add_gridspec(
            1 + bool(tested), 2, width_ratios=(3, 1), height_ratios=heights[: 1 + bool(tested)]
        )
        scores, loss = (figure.add_subplot(grid[0, i]) for i in (0, 1))
        _interval_bars(scores, results)
        for i, result in enumerate(results):
            entry = result["metrics"]["loss"]
            _bar(loss, i, entry, 0.8, COLORS[i])
        loss.set(yticks=(), xlabel="Loss (lower is better)")
        loss.set_xlim(0, 1.6 * max(result["metrics"]["loss"]["high"] for result in results))
        loss.invert_yaxis()
        if tested:
            _differences(figure.add_subplot(grid[1, :]), tested)
        names = [title(result["name"]) for result in results]
        finding = f"{', '.join(names[:-1])} and {names[-1]}: {_finding(pairs)}"
        if {result["name"] for result in results} == {"local", "hub"}:
            finding = f"Local and Hub copy: {pairs[0]['verdict']}"
        return _finished(figure, finding, _notes(results), scores)


def _finding(pairs: Sequence[Document]) -> str:
    """What the tests of some pairs say, in words."""
    if not any("mcnemar" in pair for pair in pairs):
        return ", ".join(dict.fromkeys(pair["verdict"] for pair in pairs))
    clear = sum(pair.get("mcnemar", {}).get("p_holm", 1) < 0.05 for pair in pairs)
    return (
        f"{clear} of {len(pairs)} differences in accuracy {'is' if clear == 1 else 'are'} significant (5 %)"
    )


def _differences(axes: "Axes", pairs: Sequence[Document]) -> None:
    """Paired differences of accuracy with their intervals, one line each."""
    for i, pair in enumerate(pairs):
        gain = pair["accuracy_difference"]
        axes.plot([gain["low"], gain["high"]], [i, i], color=GREY, lw=1.5)
        axes.plot(gain["value"], i, "o", color=BLUE, ms=5)
        axes.annotate(f"{gain['value']:+.3f}, p = {pair['mcnemar']['p_holm']:.2g}", (1.01, i), va="center",
                      xycoords=("axes fraction", "data"), fontsize=SMALL)  # fmt: skip
    axes.axvline(0, color=GREY, lw=0.8)
    axes.set_yticks(
        range(len(pairs)), [f"{title(p['names'][1])} minus {title(p['names'][0])}" for p in pairs]
    )
    axes.set(
        ylim=(len(pairs) - 0.5, -0.5), xlabel="Difference in accuracy, paired over reviews (95 % interval)"
    )


def reliability(result: Document) -> "Figure":
    """How often the model is right where it is so confident, and how many reviews that are."""
    bins, name = result["calibration"]["bins"], title(result["name"])
    error, sure = (result["calibration"][key] for key in ("expected_calibration_error", "confidence"))
    gap = sure - result["metrics"]["accuracy"]["value"]
    middle = [(entry["low"] + entry["high"]) / 2 for entry in bins]
    with mpl.rc_context(STYLE):
        figure, (axes, below) = plt.subplots(
            2, 1, figsize=(WIDTH, 4.2), sharex=True, height_ratios=(3, 1), layout="constrained"
        )
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--", label="Perfectly calibrated")
        axes.plot(
            [b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", color=BLUE, ms=4, label=name
        )
        axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
        below.bar(middle, [entry["reviews"] for entry in bins], 0.06, color=BLUE)
        below.set(xlabel="Confidence (probability of the predicted genre)", ylabel="Reviews")
        how = "calibrated" if abs(gap) < 0.02 else "overconfident" if gap > 0 else "underconfident"
        finding = f"{name} is {how}: mean confidence {sure:.3f}, accuracy {sure - gap:.3f}"
        finding += f"; calibration error {error:.3f}"
        return _finished(figure, finding, _notes([result]), axes)


def _interval_bars(axes: "Axes", results: Sequence[Document]) -> None:
    """The four scores of some evaluations as horizontal bars with intervals."""
    thick = 0.8 / len(results)
    for i, result in enumerate(results):
        for row, metric in enumerate(SCORES):
            label = title(result["name"]) if row == 0 and len(results) > 1 else None
            _bar(axes, row + thick * (i + 0.5) - 0.4, result["metrics"][metric], thick, COLORS[i], label)
    _thresholds(axes, results[0])
    axes.set_yticks(range(len(SCORES)), [METRICS[metric] for metric in SCORES])
    axes.set(xlim=(0, 1.12), xticks=np.arange(0, 1.1, 0.2), xlabel="Score, with 95 % interval")
    axes.invert_yaxis()


def _bar(
    axes: "Axes", place: float, entry: dict[str, float], thick: float, color: str, label: str | None = None
) -> None:
    errors = [[max(0.0, entry["value"] - entry["low"])], [max(0.0, entry["high"] - entry["value"])]]
    axes.barh(
        place,
        entry["value"],
        thick,
        color=color,
        label=label,
        xerr=errors,
        error_kw={"lw": 0.9, "ecolor": "#222222", "capsize": 2},
    )
    axes.annotate(
        f"{entry['value']:.4f}",
        (entry["high"], place),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize=SMALL,
    )


def _thresholds(axes: "Axes", result: Document) -> None:
    """Thin lines at chance, and at the reference's accuracy if this is its protocol."""
    chance = 1 / len(result["labels"])
    axes.axvline(chance, color=GREY, lw=0.8, ls=":", label=f"Chance ({chance:.3g})")
    data = result["data"]
    used = {key: data.get("parameters", {}).get(key) for key in PROTOCOL}
    if used == PROTOCOL and len(result["labels"]) == 8 and data["source"] != "sample":
        axes.axvline(REFERENCE, color=GREY, lw=0.8, ls="--", label=f"Reference's accuracy ({REFERENCE})")


def _notes(results: Sequence[Document]) -> list[str]:
    """Where some evaluations come from; the reviews once if they are of the same."""
    data = list(dict.fromkeys(reviews(result) for result in results))
    return [*(f"{title(result['name'])}: {origin(result)}" for result in results), *data]


def _finished(figure: "Figure", finding: str, notes: Sequence[str], legend: "Axes | None" = None) -> "Figure":
    """Add title, the legend of some axes and the line that says of what this is."""
    figure.supxlabel(
        "\n".join(fill(note, 112) for note in notes), x=0.01, ha="left", fontsize=SMALL, color=GREY
    )
    heading = fill(finding, 82)
    handles, labels = legend.get_legend_handles_labels() if legend else ([], [])
    if not handles:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=9, fontweight="bold")
        return figure
    made = figure.legend(
        handles, labels, title=heading, loc="outside upper left", ncols=5, frameon=False, alignment="left"
    )
    made.get_title().set(fontsize=9, fontweight="bold")
    return figure

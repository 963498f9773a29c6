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
mpl.rcParams.update({
    "font.size": 8.0, "legend.fontsize": 7.5, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "axes.labelsize": 8.0, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42,
    "figure.constrained_layout.use": True,
})  # fmt: skip
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
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    lines = [("Training", "train", BLUE, "o-"), ("Test", "test", ORANGE, "s--")]
    lines += [("Validation, selects the epoch" if best else "Validation", "validation", GREEN, "^:")]
    if steps:
        _plot(axes[0], steps, "loss", BLUE, "-", "Training, per step", alpha=0.35, lw=0.8)
    for place, metric in zip(axes, ("loss", "accuracy")):
        for label, part, color, style in lines:
            _plot(place, rows, f"{part}_{metric}", color, style, label, ms=4, lw=1.2)
        low, high = place.dataLim.intervaly if place.lines else (0.0, 1.0)
        middle, half = (low + high) / 2, max(0.65 * (high - low), 0.1)  # no axis of a thousandth
        limits = (0, 1.08 * high) if metric == "loss" else (max(0, middle - half), min(1, middle + half))
        place.axvline(saved["epoch"], color=GREY, lw=0.8, ls=(0, (1, 2)), label="Saved")
        place.set(ylim=limits, xlabel="Epoch", ylabel=metric.capitalize())
        place.set_xlim(0 if steps else 0.8, rows[-1]["epoch"] + 0.2)
        place.xaxis.set_major_locator(mpl.ticker.MaxNLocator("auto", integer=True))
        place.grid(alpha=0.3)
    found = [f"{k.replace('_', ' ')} {saved[k]:.3f}" for k in ("test_accuracy", "test_loss") if k in saved]
    finding = f"Epoch {saved['epoch']} of {len(rows)} is saved: {', '.join(found) or 'not evaluated'}"
    model, code = record["settings"]["model_name_or_path"].rpartition("/")[2], record.get("git_commit")
    digest = record["model"]["files_sha256"].get("model.safetensors", "unknown")[:8]
    note = f"{model} fine-tuned (weights {digest}) on {record['data']['train_reviews']:,} {data}; "
    note += f"{record['created'][:10]}{f' by code at commit {code[:10]}' if code else ''}"
    return _finished(figure, finding, [note], axes[0])


def _plot(
    axes: "Axes", rows: Sequence[Document], key: str, color: str, style: str, label: str, **options: Any
) -> None:
    """One line over the rows that have ``key``."""
    kept = [row for row in rows if key in row]
    if kept:
        x, y = [row["epoch"] for row in kept], [row[key] for row in kept]
        axes.plot(x, y, style, color=color, label=label, **options)


def confusion(result: Document) -> "Figure":
    """The confusion matrix in per cent of each true genre; empty where nothing was confused."""
    counts, names = np.array(result["confusion_matrix"]), genre_names(result["labels"])
    support = counts.sum(axis=1, keepdims=True)
    shares = 100 * counts / np.maximum(support, 1)
    off = np.where(np.eye(len(names), dtype=bool), -1, shares)
    true, taken = np.unravel_index(off.argmax(), off.shape)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.9 + 0.42 * len(names)))
    sns.heatmap(
        shares, annot=np.where(counts > 0, np.char.mod("%.1f", shares), ""), fmt="", cmap="Blues",
        vmin=0, vmax=100, linewidths=0.5, ax=axes, xticklabels=names, annot_kws={"size": 7.5},
        yticklabels=[f"{name} ({n})" for name, n in zip(names, support[:, 0])],
        cbar_kws={"label": "% of the true genre"},
    )  # fmt: skip
    axes.set(xlabel="Predicted genre", ylabel="True genre (reviews)")
    axes.tick_params("y", rotation=0)
    axes.set_xticks(axes.get_xticks(), names, rotation=30, ha="right", rotation_mode="anchor")
    most = f"most often, {names[true]} is taken for {names[taken]}\u00a0({off.max():.1f}\u00a0%)"
    finding = f"accuracy {result['metrics']['accuracy']['value']:.3f}; "
    finding += most if off.max() > 0 else "nothing is confused"
    return _finished(figure, f"{title(result['name'])}: {finding}", _notes([result]))


def per_genre(results: Sequence[Document]) -> "Figure":
    """Precision, recall and F1 of each genre, of one evaluation or of several side by side."""
    labels, thick, rows = results[0]["labels"], 0.8 / len(results), results[0]["per_class"]
    height = 1.5 + len(labels) * max(0.3, 0.17 * len(results))
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, height), sharey=True)
    for panel, (key, name) in zip(axes, (("precision", "Precision"), ("recall", "Recall"), ("f1", "F1"))):
        for i, result in enumerate(results):
            places = np.arange(len(labels)) + thick * (i + 0.5) - 0.4
            values = [result["per_class"][label][key] for label in labels]
            bars = panel.barh(places, values, thick, color=COLORS[i], label=title(result["name"]))
            panel.bar_label(bars, fmt="%.2f", fontsize=SMALL, padding=2)
        _thresholds(panel, results[0])
        panel.set(xlim=(0, 1.2), xlabel=name, xticks=(0, 0.5, 1))
    axes[0].set_yticks(range(len(labels)), genre_names(labels))
    axes[0].invert_yaxis()
    best, worst = (pick(labels, key=lambda label: rows[label]["f1"]) for pick in (max, min))
    (high, low), (most, least) = genre_names([best, worst]), (rows[best]["f1"], rows[worst]["f1"])
    finding = f"{high} is recognized best (F1 {most:.2f}), {low} worst ({least:.2f})"
    if most - least < 0.005:
        finding = f"all genres are recognized equally well (F1 {most:.2f})"
    return _finished(figure, f"{title(results[0]['name'])}: {finding}", _notes(results), axes[0])


def overall(results: Sequence[Document], pairs: Sequence[Document] = ()) -> "Figure":
    """Scores and, on its own axis, loss of some evaluations, and the paired differences of their accuracies.

    Args:
        results: one or more.
        pairs: what ``comparison.compare_all`` found for them.
    """
    tested = [pair for pair in pairs if "accuracy_difference" in pair]
    heights = [1.1 + 0.55 * len(results), 0.5 + 0.25 * len(tested)][: 1 + bool(tested)]
    figure = plt.figure(figsize=(WIDTH, 1.0 + sum(heights)))
    grid = figure.add_gridspec(len(heights), 2, width_ratios=(3, 1), height_ratios=heights)
    scores, loss = (figure.add_subplot(grid[0, i]) for i in (0, 1))
    thick = 0.8 / len(results)
    for i, result in enumerate(results):
        for row, metric in enumerate(SCORES):
            label = title(result["name"]) if row == 0 and len(results) > 1 else None
            _bar(scores, row + thick * (i + 0.5) - 0.4, result["metrics"][metric], thick, COLORS[i], label)
        _bar(loss, i, result["metrics"]["loss"], 0.8, COLORS[i])
    _thresholds(scores, results[0])
    scores.set_yticks(range(len(SCORES)), [METRICS[metric] for metric in SCORES])
    scores.set(xlim=(0, 1.12), xticks=np.arange(0, 1.1, 0.2), xlabel="Score, with 95 % interval")
    scores.invert_yaxis()
    loss.set(yticks=(), xlabel="Loss (lower is better)")
    most = max(result["metrics"]["loss"]["high"] for result in results)
    loss.set(xlim=(0, max(1.6 * most, 0.1)))
    loss.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
    loss.invert_yaxis()
    if tested:
        _differences(figure.add_subplot(grid[1, :]), tested)
    return _finished(figure, _finding(results, pairs), _notes(results), scores)


def _finding(results: Sequence[Document], pairs: Sequence[Document]) -> str:
    """What the scores of one evaluation, or the tests of several, say."""
    names = [title(result["name"]) for result in results]
    if len(names) == 1:
        value, chance = results[0]["metrics"]["accuracy"]["value"], 1 / len(results[0]["labels"])
        return f"{names[0]}: accuracy {value:.3f}, {value / chance:.1f} times chance"
    if names == ["Local", "Hub"]:
        return f"Local and Hub copy: {pairs[0]['verdict']}"
    clear = sum(pair.get("mcnemar", {}).get("p_holm", 1) < 0.05 for pair in pairs)
    found = f"{clear} of {len(pairs)} differences in accuracy significant"
    return f"{', '.join(names[:-1])} and {names[-1]}: {found}"


def _differences(axes: "Axes", pairs: Sequence[Document]) -> None:
    """Paired differences of accuracy with their intervals, one line each."""
    for i, pair in enumerate(pairs):
        gain, text = pair["accuracy_difference"], f"p = {pair['mcnemar']['p_holm']:.2g}"
        axes.plot([gain["low"], gain["high"]], [i, i], color=GREY, lw=1.5)
        axes.plot(gain["value"], i, "o", color=BLUE, ms=5)
        axes.text(1.01, i, f"{gain['value']:+.3f}, {text}", transform=axes.get_yaxis_transform(),
                  va="center", fontsize=SMALL)  # fmt: skip
    axes.axvline(0, color=GREY, lw=0.8)
    names = [[title(name) for name in pair["names"]] for pair in pairs]
    axes.set_yticks(range(len(pairs)), [f"{second} minus {first}" for first, second in names])
    axes.set(ylim=(len(pairs) - 0.5, -0.5), xlabel="Difference in accuracy, paired by review (95 % interval)")


def reliability(result: Document) -> "Figure":
    """How often the model is right where it is so confident, and how many reviews that are."""
    found, name = result["calibration"], title(result["name"])
    bins, sure, right = found["bins"], found["confidence"], result["metrics"]["accuracy"]["value"]
    figure, (axes, below) = plt.subplots(2, 1, figsize=(WIDTH, 4.2), sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--", label="Perfectly calibrated")
    points = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
    axes.plot(*points, "o-", color=BLUE, ms=4, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    below.bar([(b["low"] + b["high"]) / 2 for b in bins], [b["reviews"] for b in bins], 0.06, color=BLUE)
    below.set(xlabel="Confidence (probability of the predicted genre)", ylabel="Reviews")
    how = "calibrated" if abs(sure - right) < 0.02 else "overconfident" if sure > right else "underconfident"
    finding = f"{name} is {how}: confidence {sure:.3f}, accuracy {right:.3f}"
    finding += f", calibration error {found['expected_calibration_error']:.3f}"
    return _finished(figure, finding, _notes([result]), axes)


def _bar(
    axes: "Axes", place: float, entry: dict[str, float], thick: float, color: str, label: str | None = None
) -> None:
    """A horizontal bar with its interval and its value in figures."""
    value, low, high = (entry[key] for key in ("value", "low", "high"))
    axes.barh(place, value, thick, color=color, label=label)
    error = [[max(0.0, value - low)], [max(0.0, high - value)]]
    axes.errorbar(value, place, xerr=error, color="#222222", lw=0.9, capsize=2)
    axes.annotate(
        f"{value:.4f}",
        (max(value, high), place),
        (4, 0),
        "data",
        "offset points",
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
    text = "\n".join(fill(note, 112) for note in notes)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL, color=GREY)
    heading = fill(finding, 82)
    handles, labels = legend.get_legend_handles_labels() if legend else ([], [])
    if not handles:
        figure.suptitle(heading, x=0.01, ha="left", fontsize=9, fontweight="bold")
        return figure
    made = figure.legend(handles, labels, loc="outside upper left", ncols=5, frameon=False, alignment="left")
    made.set_title(heading)
    made.get_title().set(fontsize=9, fontweight="bold")
    return figure

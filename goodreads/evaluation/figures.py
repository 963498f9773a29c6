"""The pictures of results, drawn at the width of a text column to be read there.

Each function takes documents of results files and returns a figure whose title says what it shows and whose
last line says of what: model, repository and commit, reviews and date.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import seaborn as sns

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_files, locked, read_json
from goodreads.common.progress import log
from goodreads.evaluation.comparison import COPY
from goodreads.evaluation.results import METRICS, genre_names, made_by, notes, title

mpl.use("Agg")  # no screen needed
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

# Okabe & Ito's palette (https://jfly.uni-koeln.de/color/): told apart with any colour vision, and in grey
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BLUE, ORANGE, GREEN, GREY = *COLORS[:3], "#555555"
WIDTH, SMALL = 6.6, 7.0  # inches; points, nothing is smaller
mpl.rcParams.update({
    "font.size": 8.0, "legend.fontsize": 7.5, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "axes.labelsize": 8.0, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42,
    "figure.constrained_layout.use": True, "savefig.dpi": 300,
})  # fmt: skip
SCORES = [name for name in METRICS if name != "loss"]
REFERENCE = 0.5538  # accuracy in the reference's report, for its eight genres and its draw
ENTRY = ("value", "low", "high")
PROTOCOL = {"head": 10_000, "per_genre": 1_000, "train_per_genre": 800, "seed": 42}
Document = dict[str, Any]


def draw_all(
    results_dir: Path, evaluations: dict[str, Document], pairs: Sequence[Document], formats: Sequence[str]
) -> list[str]:
    """Draw every picture that a results folder has the files for; the names of the files, in drawing order.

    Where a local model and its Hub copy are both there, one picture shows both.

    Args:
        results_dir: the folder.
        evaluations: all that it holds, by name.
        pairs: what ``comparison.compare_all`` found for some of them.
        formats: of the files: png, pdf, svg.
    """
    made: dict[str, Figure] = {}
    path = results_dir / "training_log.json"
    if path.exists():
        generated = all(result["data"]["source"] == "sample" for result in evaluations.values())
        try:
            made["training_loss"] = training_curve(read_json(path, "train.py"), "generated " * generated)
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"{path} is not a log of train.py: {error!r}") from error
    else:
        log.warning("%s is missing, so training_loss is not drawn; train.py writes it", path)
    copies = [evaluations[name] for name in COPY if name in evaluations]
    together = len(copies) == 2 and copies[0]["labels"] == copies[1]["labels"]
    for name, result in evaluations.items():
        made[f"confusion_matrix_{name}"] = confusion(result)
        if not (together and name == "hub"):  # it stands beside local and in comparison_local_hub
            made[f"per_class_metrics_{name}"] = per_genre(
                copies if together and name == "local" else [result]
            )
            made[f"overall_metrics_{name}"] = overall([result])
        if "calibration" in result:
            made[f"reliability_{name}"] = reliability(result)
    if names := list(dict.fromkeys(name for pair in pairs for name in pair["names"])):
        made["comparison_" + "_".join(names)] = overall([evaluations[name] for name in names], pairs)
    files = {f"{stem}.{kind}": figure for stem, figure in made.items() for kind in formats}
    with locked(results_dir), atomic_files(results_dir) as folder:
        for file, figure in files.items():
            figure.savefig(folder / file)
    plt.close("all")
    log.info("drew %d pictures into %s", len(files), results_dir)
    return list(files)


def training_curve(record: Document, kind: str = "") -> "Figure":
    """Loss per logged step and per epoch, and accuracy per epoch, of training_log.json.

    Args:
        record: the log.
        kind: what kind of reviews it trained on, "generated " or nothing.
    """
    rows, steps = record["epochs"], record.get("losses", [])
    best = str(record.get("best_checkpoint") or "").rpartition("-")[2]
    saved = next((row for row in rows if best == str(row["step"])), rows[-1])
    figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 2.9))
    if steps:
        x, y = zip(*((step["epoch"], step["loss"]) for step in steps))
        axes[0].plot(x, y, color=BLUE, alpha=0.35, lw=0.8, label="Training, per step")
    lines = [("Training", "train", BLUE, "o-"), ("Test", "test", ORANGE, "s--")]
    lines += [("Validation, selects the epoch" if best else "Validation", "validation", GREEN, "^:")]
    for place, metric in zip(axes, ("loss", "accuracy")):
        for label, part, color, style in lines:
            if points := [(row["epoch"], row[key]) for row in rows if (key := f"{part}_{metric}") in row]:
                place.plot(*zip(*points), style, color=color, label=label, ms=4, lw=1.2)
        place.axvline(saved["epoch"], color=GREY, lw=0.8, ls=(0, (1, 2)), label="Saved")
        place.set(xlabel="Epoch", ylabel=metric.capitalize(), xlim=(0, rows[-1]["epoch"] + 0.2))
        place.set_ylim(0, 1 if metric == "accuracy" else None)  # no axis of a thousandth
        place.xaxis.set_major_locator(mpl.ticker.MaxNLocator("auto", integer=True))
        place.grid(alpha=0.3)
    found = [f"{k.replace('_', ' ')} {saved[k]:.3f}" for k in ("test_accuracy", "test_loss") if k in saved]
    finding = f"Epoch {saved['epoch']} of {len(rows)} is saved: {', '.join(found) or 'not evaluated'}"
    model, trained = record["settings"]["model_name_or_path"], record["data"]["train_reviews"]
    weights = record["model"]["files_sha256"].get("model.safetensors", "unknown")[:8]
    note = (
        f"{Path(model).name} fine-tuned (weights {weights}) on {trained:,} {kind}reviews; {made_by(record)}"
    )
    return _finished(figure, finding, [note], axes[0])


def confusion(result: Document) -> "Figure":
    """The confusion matrix in per cent of each true genre; empty where nothing was confused."""
    counts, names = np.array(result["confusion_matrix"]), genre_names(result["labels"])
    support = counts.sum(axis=1, keepdims=True)
    shares = 100 * counts / np.maximum(support, 1)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.9 + 0.42 * len(names)))
    cells = np.where(counts > 0, np.char.mod("%.1f", shares), "")
    rows = [f"{name} ({n})" for name, n in zip(names, support[:, 0])]
    sns.heatmap(
        shares, annot=cells, fmt="", cmap="Blues", vmin=0, vmax=100, linewidths=0.5, ax=axes,
        yticklabels=rows, annot_kws={"size": 7.5}, cbar_kws={"label": "% of the true genre"},
    )  # fmt: skip
    axes.set(xlabel="Predicted genre", ylabel="True genre (reviews)")
    axes.tick_params("y", rotation=0)
    axes.set_xticks(axes.get_xticks(), names, rotation=30, ha="right", rotation_mode="anchor")
    np.fill_diagonal(shares, 0)
    true, taken = np.unravel_index(shares.argmax(), shares.shape)
    finding = f"{title(result['name'])}: accuracy {result['metrics']['accuracy']['value']:.3f}"
    if shares.any():
        finding += f"; most often, {names[true]} is taken for {names[taken]}\u00a0({shares.max():.1f}\u00a0%)"
    return _finished(figure, finding, notes([result]))


def per_genre(results: Sequence[Document]) -> "Figure":
    """Precision, recall and F1 of each genre, of one evaluation or of several side by side."""
    labels, rows = results[0]["labels"], results[0]["per_class"]
    height = 1.5 + len(labels) * max(0.3, 0.17 * len(results))
    figure, axes = plt.subplots(1, 3, figsize=(WIDTH, height), sharey=True)
    for panel, key in zip(axes, ("precision", "recall", "f1")):
        values = [[{"value": result["per_class"][label][key]} for label in labels] for result in results]
        _bars(panel, results, values, "%.2f")
        _thresholds(panel, results[0])
        panel.set(xlim=(0, 1.2), xlabel=key.capitalize(), xticks=(0, 0.5, 1))
    axes[0].set_yticks(range(len(labels)), genre_names(labels))
    axes[0].invert_yaxis()
    low, *_, high = sorted(labels, key=lambda label: rows[label]["f1"])
    least, most = (f"{rows[label]['f1']:.2f} ({genre_names([label])[0]})" for label in (low, high))
    finding = f"{title(results[0]['name'])}: F1 from {least} to {most}"
    return _finished(figure, finding, notes(results), axes[0])


def overall(results: Sequence[Document], pairs: Sequence[Document] = ()) -> "Figure":
    """Scores and, on its own axis, loss of some evaluations, and the paired differences of their accuracies.

    Args:
        results: one or more.
        pairs: what ``comparison.compare_all`` found for them.
    """
    tested = [pair for pair in pairs if "accuracy_difference" in pair]
    mosaic: Any = [["scores", "loss"], ["gain", "gain"]][: 1 + bool(tested)]
    heights = [1.1 + 0.55 * len(results), 0.5 + 0.32 * len(tested)][: len(mosaic)]
    figure, axes = plt.subplot_mosaic(mosaic, width_ratios=(3, 1), height_ratios=heights)
    figure.set_size_inches(WIDTH, 1.0 + sum(heights))
    scores, loss = axes["scores"], axes["loss"]
    for place, metrics in ((scores, SCORES), (loss, ["loss"])):
        _bars(place, results, [[result["metrics"][name] for name in metrics] for result in results], "%.4f")
        place.invert_yaxis()
    _thresholds(scores, results[0])
    scores.set_yticks(range(len(SCORES)), [METRICS[metric] for metric in SCORES])
    scores.set(xlim=(0, 1.12), xticks=np.arange(0, 1.1, 0.2), xlabel="Score, with 95 % interval")
    most = max(result["metrics"]["loss"]["high"] for result in results)
    loss.set(xlim=(0, max(1.6 * most, 0.1)), yticks=(), xlabel="Loss")
    loss.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
    if tested:
        gains = np.array([list(pair["accuracy_difference"].values()) for pair in tested])
        axes["gain"].errorbar(gains[:, 0], range(len(tested)), xerr=_distances(gains), fmt="o", ecolor=GREY)
        axes["gain"].set_yticks(range(len(tested)), list(map(_difference, tested)))
        axes["gain"].set(ylim=(len(tested) - 0.5, -0.5), xlabel="Difference in accuracy, with 95 % interval")
        axes["gain"].axvline(0, color=GREY, lw=0.8)
    return _finished(figure, _finding(results, pairs), notes(results), scores)


def _finding(results: Sequence[Document], pairs: Sequence[Document]) -> str:
    """What the scores of one evaluation, or the tests of several, say."""
    names = ", ".join(title(result["name"]) for result in results)
    if not pairs:
        return f"{names}: accuracy {results[0]['metrics']['accuracy']['value']:.3f}"
    if pairs[0]["names"] == COPY and len(pairs) == 1:
        return f"Local and Hub copy: {pairs[0]['verdict']}"
    clear = sum(pair.get("mcnemar", {}).get("p_holm", 1) < 0.05 for pair in pairs)
    return f"{names}: {clear} of {len(pairs)} differences in accuracy significant"


def _difference(pair: Document) -> str:
    """Which difference a line shows, with its value and the probability of chance."""
    first, second = (title(name) for name in pair["names"])
    gain, p = pair["accuracy_difference"]["value"], pair["mcnemar"]["p_holm"]
    return f"{second} minus {first}\n{gain:+.3f}, p = {p:.2g}"


def reliability(result: Document) -> "Figure":
    """How often the model is right where it is so confident, and how many reviews that are."""
    found, name = result["calibration"], title(result["name"])
    sure, right = found["confidence"], result["metrics"]["accuracy"]["value"]
    bins = {key: np.array([part[key] for part in found["bins"]]) for key in found["bins"][0]}
    figure, (axes, below) = plt.subplots(2, 1, figsize=(WIDTH, 4.2), sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--", label="Perfectly calibrated")
    axes.plot(bins["confidence"], bins["accuracy"], "o-", color=BLUE, ms=4, label=name)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    below.bar((bins["low"] + bins["high"]) / 2, bins["reviews"], 0.06, color=BLUE)
    below.set(xlabel="Confidence (probability of the predicted genre)", ylabel="Reviews")
    how = "calibrated" if abs(sure - right) < 0.02 else "overconfident" if sure > right else "underconfident"
    finding = f"{name} is {how}: confidence {sure:.3f}, accuracy {right:.3f}"
    finding += f", calibration error {found['expected_calibration_error']:.3f}"
    return _finished(figure, finding, notes([result]), axes)


def _bars(axes: "Axes", results: Sequence[Document], table: Sequence[Sequence[Document]], fmt: str) -> None:
    """Horizontal bars with their values, in groups with one bar of each result.

    Args:
        axes: where.
        results: one or more.
        table: for each result its entries: a value, and an interval (low, high) where there is one.
        fmt: of the values.
    """
    thick = 0.8 / len(results)
    for i, (result, entries) in enumerate(zip(results, table)):
        rows = np.array([[entry.get(key, entry["value"]) for key in ENTRY] for entry in entries])
        places, color = np.arange(len(rows)) + thick * (i + 0.5) - 0.4, COLORS[i % len(COLORS)]
        label, arms = title(result["name"]), _distances(rows)
        bars = axes.barh(places, rows[:, 0], thick, color=color, label=label, xerr=arms)
        axes.bar_label(bars, fmt=fmt, fontsize=SMALL, padding=2)


def _distances(rows: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """From (value, low, high) per row, shape (n, 3), to the lengths of an interval's arms, shape (2, n)."""
    return np.maximum((rows[:, 0] - rows[:, 1], rows[:, 2] - rows[:, 0]), 0)


def _thresholds(axes: "Axes", result: Document) -> None:
    """Thin lines at chance, and at the reference's accuracy if this is its protocol."""
    chance = 1 / len(result["labels"])
    axes.axvline(chance, color=GREY, lw=0.8, ls=":", label=f"Chance ({chance:.3g})")
    own = PROTOCOL.items() <= result["data"].get("parameters", {}).items() and len(result["labels"]) == 8
    if own and result["data"]["source"] != "sample":
        axes.axvline(REFERENCE, color=GREY, lw=0.8, ls="--", label=f"Reference's accuracy ({REFERENCE})")


def _finished(
    figure: "Figure", finding: str, origins: Sequence[str], legend: "Axes | None" = None
) -> "Figure":
    """Add title, the legend of some axes and the line that says of what this is."""
    text = "\n".join(fill(note, 112) for note in origins)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL, color=GREY)
    handles, labels = legend.get_legend_handles_labels() if legend else ([], [])
    figure.legend(handles, labels, title=fill(finding, 82), loc="outside upper left", ncols=5, frameon=False,
                  alignment="left", title_fontproperties={"weight": "bold", "size": 9})  # fmt: skip
    return figure

"""The pictures of results, drawn at the width of a text column to be read there.

Each function takes documents of results files and returns a figure whose title says what it shows and whose
last lines say of what: model, repository and commit, reviews and date.
"""

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_files, locked, read_json
from goodreads.common.progress import log
from goodreads.data.genres import GENRES
from goodreads.data.sampling import Parameters
from goodreads.evaluation.comparison import COPY, gain
from goodreads.evaluation.results import METRICS, Document, made_by, notes, title

# Okabe & Ito's palette (https://jfly.uni-koeln.de/color/): told apart with any colour vision, and in grey
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
BLUE, ORANGE, GREEN, GREY = *COLORS[:3], "#555555"
WIDTH, SMALL = 6.6, 7.0  # inches; points, nothing is smaller
mpl.rcParams.update({
    "backend": "agg",  # no screen needed
    "font.size": 8.0, "legend.fontsize": 7.5, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "axes.labelsize": 8.0, "axes.spines.top": False, "axes.spines.right": False, "pdf.fonttype": 42,
    "figure.constrained_layout.use": True, "savefig.dpi": 300,
})  # fmt: skip
SCORES = [name for name in METRICS if name != "loss"]
REFERENCE = 0.5538  # accuracy in the reference's report, for its eight genres and its draw


def draw_all(
    folder: Path, evaluations: dict[str, Document], names: list[str], pairs: list[Document], kinds: list[str]
) -> list[str]:
    """Draw every picture that a results folder has the files for; the names of the files, in drawing order.

    Args:
        folder: the results folder.
        evaluations: all that it holds, by name.
        names, pairs: names of some of them, and what ``comparison.compare`` found.
        kinds: of files: png, pdf, svg.
    """
    made, path = {}, folder / "training_log.json"
    if path.exists():
        generated = all(result["data"]["parameters"]["source"] == "sample" for result in evaluations.values())
        if "saved_epoch" not in (record := read_json(path, "train.py")):
            raise InputError(f"{path} is not a log of this version's train.py; move it away, or train again")
        made["training_loss"] = training_curve(record, "generated " * generated)
    copies = [evaluations[name] for name in COPY if name in evaluations]
    for name, result in evaluations.items():
        # a local model and its Hub copy stand side by side
        group = [copy for copy in copies if copy["labels"] == result["labels"]] if name in COPY else [result]
        made[f"confusion_matrix_{name}"] = confusion(result)
        made[f"reliability_{name}"] = reliability(result)
        if result is group[0]:
            made[f"per_class_metrics_{name}"] = per_genre(group)
            made[f"overall_metrics_{name}"] = overall([result])
    if pairs:
        made["comparison_" + "_".join(names)] = overall([evaluations[name] for name in names], pairs)
    files = {f"{stem}.{kind}": figure for stem, figure in made.items() for kind in kinds}
    with locked(folder), atomic_files(folder) as new:
        for file, figure in files.items():
            figure.savefig(new / file)
    plt.close("all")
    log.info("drew %d pictures into %s", len(files), folder)
    return list(files)


def training_curve(record: Document, kind: str = "") -> Figure:
    """Loss per logged step and per epoch, of training_log.json.

    Args:
        record: the log.
        kind: what kind of reviews it trained on, "generated " or nothing.
    """
    epochs, saved = record["epochs"], record["saved_epoch"]
    figure, axes = plt.subplots(figsize=(WIDTH, 3))
    for rows, key, label, style, color in (
        (record["losses"], "loss", "Training, per step", "-", "#A6C8E0"),
        (epochs, "train_loss", "Training", "o-", BLUE),
        (epochs, "test_loss", "Test", "s--", ORANGE),
        (epochs, "validation_loss", "Validation, selects the epoch", "^:", GREEN),
    ):
        if points := [(row["epoch"], row[key]) for row in rows if key in row]:
            axes.plot(*zip(*points), style, color=color, label=label, ms=4, lw=1.2)
    axes.axvline(saved, color=GREY, lw=0.8, ls=(0, (1, 2)), label="Saved")
    axes.set(xlabel="Epoch", ylabel="Loss", xlim=(0, epochs[-1]["epoch"] + 0.2), ylim=(0, None))
    axes.locator_params(axis="x", integer=True)
    weights = record["model"]["files_sha256"].get("model.safetensors", "unknown")[:8]
    note = f"{Path(record['settings']['model_name_or_path']).name} fine-tuned (weights {weights}) on "
    note += f"{record['data']['train_reviews']:,} {kind}reviews; {made_by(record)}"
    return _finished(figure, f"Epoch {saved:g} of {len(epochs)} is saved", [note], axes)


def confusion(result: Document) -> Figure:
    """The confusion matrix in per cent of each true genre; empty where nothing was confused."""
    counts, names = np.array(result["confusion_matrix"]), [GENRES[label] for label in result["labels"]]
    support = counts.sum(axis=1, keepdims=True)
    shares = 100 * counts / np.maximum(support, 1)
    figure, axes = plt.subplots(figsize=(WIDTH, 1.9 + 0.42 * len(names)))
    sns.heatmap(
        shares, annot=np.where(counts > 0, np.char.mod("%.1f", shares), ""), annot_kws={"size": 7.5}, fmt="",
        cmap="Blues", vmin=0, vmax=100, linewidths=0.5, ax=axes, cbar_kws={"label": "% of the true genre"},
        yticklabels=[f"{name} ({n})" for name, n in zip(names, support[:, 0])],
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


def per_genre(results: Sequence[Document]) -> Figure:
    """Precision, recall and F1 of each genre, of one evaluation or of several side by side."""
    genres, first = [GENRES[label] for label in results[0]["labels"]], results[0]["per_class"]
    height = 1.5 + len(genres) * max(0.3, 0.17 * len(results))
    figure, panels = plt.subplots(1, 3, figsize=(WIDTH, height), sharey=True)
    for panel, key in zip(panels, ("precision", "recall", "f1")):
        rows = [[[scores[key]] * 3 for scores in result["per_class"].values()] for result in results]
        _bars(panel, results, genres, rows, "%.2f")
        _thresholds(panel, results[0])
        panel.set(xlim=(0, 1.2), xlabel=key.capitalize(), xticks=(0, 0.5, 1))
    (low, worst), *_, (high, best) = sorted((first[slug]["f1"], GENRES[slug]) for slug in first)
    finding = f"{title(results[0]['name'])}: F1 from {low:.2f} ({worst}) to {high:.2f} ({best})"
    return _finished(figure, finding, notes(results), panels[0])


def overall(results: Sequence[Document], pairs: Sequence[Document] = ()) -> Figure:
    """Scores and, on its own axis, loss of some evaluations, and in words how their accuracies differ.

    Args:
        results: one or more.
        pairs: what ``comparison.compare`` found for them.
    """
    gains, origins = [gain(pair) for pair in pairs if "mcnemar" in pair], notes(results)
    if gains:
        origins += ["Differences in accuracy (McNemar's test, Holm's correction): " + "; ".join(gains)]
    size = (WIDTH, 1.9 + 0.6 * len(results) + 0.08 * len(gains))
    figure, (scores, loss) = plt.subplots(1, 2, figsize=size, width_ratios=(3, 1))
    for place, metrics in ((scores, SCORES), (loss, ["loss"])):
        rows = [[list(result["metrics"][name].values()) for name in metrics] for result in results]
        _bars(place, results, [METRICS[metric] for metric in metrics], rows, "%.4f")
    _thresholds(scores, results[0])
    scores.set(xlim=(0, 1.12), xticks=np.arange(0, 1.1, 0.2), xlabel="Score, with 95 % interval")
    loss.set(xmargin=0.6, yticks=(), xlabel="Loss")
    loss.locator_params(axis="x", nbins=3)
    finding = f"{title(results[0]['name'])}: accuracy {results[0]['metrics']['accuracy']['value']:.3f}"
    if [pair["names"] for pair in pairs] == [COPY]:
        finding = f"Local and Hub copy: {pairs[0]['verdict']}"
    elif pairs:
        clear = sum(pair.get("mcnemar", {}).get("p_holm", 1) < 0.05 for pair in pairs)
        finding = f"{clear} of {len(pairs)} differences in accuracy significant"
    return _finished(figure, finding, origins, scores)


def reliability(result: Document) -> Figure:
    """How often the model is right where it is so confident."""
    found, right = result["calibration"], result["metrics"]["accuracy"]["value"]
    sure, name = found["confidence"], title(result["name"])
    figure, axes = plt.subplots(figsize=(WIDTH, 3.5))
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--", label="Perfectly calibrated")
    points = [(part["confidence"], part["accuracy"]) for part in found["bins"]]
    axes.plot(*zip(*points), "o-", color=BLUE, ms=4, label=name)
    axes.set(
        xlim=(0, 1), ylim=(0, 1.02), ylabel="Accuracy", xlabel="Confidence (probability of the prediction)"
    )
    how = "calibrated" if abs(sure - right) < 0.02 else "overconfident" if sure > right else "underconfident"
    finding = f"{name} is {how}: confidence {sure:.3f}, accuracy {right:.3f}"
    finding += f", calibration error {found['expected_calibration_error']:.3f}"
    return _finished(figure, finding, notes([result]), axes)


def _bars(axes: Axes, results: Sequence[Document], names: Sequence[str], table: Any, fmt: str) -> None:
    """Horizontal bars with their values: for each name a group, in it a bar of each result.

    Args:
        axes: where.
        results: one or more.
        names: of the groups, from the top.
        table: value, low and high for each result and name.
        fmt: of the values.
    """
    thick, groups = 0.8 / len(results), -np.arange(len(names))
    for i, (result, rows) in enumerate(zip(results, table)):
        value, low, high = np.array(rows).T
        arms, color = np.maximum((value - low, high - value), 0), COLORS[i % len(COLORS)]
        places, label = groups + 0.4 - thick * (i + 0.5), title(result["name"])
        bars = axes.barh(places, value, thick, color=color, label=label, xerr=arms)
        axes.bar_label(bars, fmt=fmt, fontsize=SMALL, padding=2)
    axes.set_yticks(groups, names)


def _thresholds(axes: Axes, result: Document) -> None:
    """Thin lines at chance, and at the reference's accuracy if this is its protocol."""
    chance = 1 / len(result["labels"])
    axes.axvline(chance, color=GREY, lw=0.8, ls=":", label=f"Chance ({chance:.3g})")
    parameters, protocol = result["data"]["parameters"], Parameters().as_json()
    if parameters["source"] != "sample" and parameters | {"source": protocol["source"]} == protocol:
        axes.axvline(REFERENCE, color=GREY, lw=0.8, ls="--", label=f"Reference's accuracy ({REFERENCE})")


def _finished(figure: Figure, finding: str, origins: Sequence[str], legend: Axes | None = None) -> Figure:
    """Add title, the legend of some axes and the lines that say of what this is."""
    text = "\n".join(fill(note, 112) for note in origins)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=SMALL, color=GREY)
    handles, labels = legend.get_legend_handles_labels() if legend else ([], [])
    figure.legend(handles, labels, title=fill(finding, 82), loc="outside upper left", ncols=5, frameon=False,
                  alignment="left", title_fontproperties={"weight": "bold", "size": 9})  # fmt: skip
    return figure

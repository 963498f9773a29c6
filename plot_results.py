"""Draw the results: curves, confusion matrix, per-class bars, overall metrics, and local against Hub.

    python plot_results.py                               # everything that RESULTS_DIR has the files for
    python plot_results.py --no-plots                    # the comparison alone

Reads only results files. Draws training_loss.png, for each evaluation confusion_matrix_NAME.png,
per_class_metrics_NAME.png and overall_metrics_NAME.png, and with both "local" and "hub" (or the two of
--compare) comparison_local_hub.png, with the verdict IDENTICAL, EQUIVALENT or DIFFERENT and the table in
comparison.json and comparison.md. DIFFERENT ends with exit status 1.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from goodreads.common.cli import Parser, run
from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.progress import log
from goodreads.data.genres import GENRES

# Okabe & Ito's palette (https://jfly.uni-koeln.de/color/): told apart with any colour vision, and in grey
BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
NAMES = {"local": "Local", "hub": "Hub"}
METRICS = {  # the reference's Table 2, in its order
    "accuracy": "Accuracy",
    "precision_weighted": "Precision (weighted)",
    "recall_weighted": "Recall (weighted)",
    "f1_weighted": "F1 (weighted)",
    "loss": "Loss",
}
EVALUATE = "python evaluate_model.py"
COMPARED = "local,hub"


def main() -> None:
    """Draw what there is; compare; print the table and one JSON line.

    Raises:
        CheckFailed: the two evaluations are DIFFERENT.
    """
    options = _options()
    evaluations = read_evaluations(options.results_dir)
    names = options.compare.split(",")
    if len(names) != 2:
        raise InputError(f"--compare {options.compare}: name two evaluations, as in local,hub")
    if options.compare != COMPARED and (missing := [name for name in names if name not in evaluations]):
        raise InputError(f"--compare: {options.results_dir} has no eval_results_{missing[0]}.json")
    comparison = None
    if all(name in evaluations for name in names):
        first, second = (evaluations[name] for name in names)
        comparison = compare(options.results_dir, first, second, options.seed)
    drawn = [] if options.no_plots else draw(options.results_dir, evaluations, comparison)
    document: dict[str, Any] = {"drawn": [path.name for path in drawn]}
    if comparison:
        document["verdict"] = comparison["verdict"]
    print(json.dumps(document))
    if comparison and comparison["verdict"] == "DIFFERENT":
        raise CheckFailed(f"{' and '.join(names)} are DIFFERENT: {comparison['reason']}")


def compare(results_dir: Path, first: dict[str, Any], second: dict[str, Any], seed: int) -> dict[str, Any]:
    """Compare two evaluations; write comparison.json and comparison.md and print the table.

    Raises:
        InputError: their predictions are missing or not theirs.
    """
    from goodreads.common.files import write_json, write_text
    from goodreads.evaluation import comparison

    document = comparison.compare(results_dir, first, second, seed)
    text = markdown_table(document)
    write_json(results_dir / "comparison.json", document)
    write_text(results_dir / "comparison.md", text + "\n")
    print(text)
    return document


def read_evaluations(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Every evaluation in the folder, by name.

    Raises:
        InputError: there is none, or a file is damaged.
    """
    from goodreads.common.files import read_json

    paths = sorted(results_dir.glob("eval_results_*.json"))
    if not paths:
        raise InputError(f"{results_dir} has no eval_results_*.json; make one with: {EVALUATE}")
    evaluations = {}
    for path in paths:
        document = read_json(path, EVALUATE)
        if document.get("format") != 1 or "confusion_matrix" not in document:
            raise InputError(f"{path} is not an evaluation of format 1; make it again with: {EVALUATE}")
        evaluations[document["name"]] = document
    return evaluations


def draw(
    results_dir: Path, evaluations: dict[str, dict[str, Any]], comparison: dict[str, Any] | None
) -> list[Path]:
    """Draw every picture that there are figures for; the paths, in drawing order."""
    import matplotlib as mpl

    mpl.use("Agg")  # no screen needed
    mpl.rcParams.update(
        {"figure.dpi": 150, "font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
    )
    drawn = []
    log_path = results_dir / "training_log.json"
    if log_path.exists():
        from goodreads.common.files import read_json

        drawn.append(
            _save(training_curves(read_json(log_path, "python train.py")), results_dir / "training_loss.png")
        )
    else:
        log.warning("%s is missing, so training_loss.png is not drawn; train.py writes it", log_path)
    for name, result in evaluations.items():
        for stem, picture in (
            ("confusion_matrix", confusion),
            ("per_class_metrics", per_class_bars),
            ("overall_metrics", overall_bars),
        ):
            drawn.append(_save(picture(result), results_dir / f"{stem}_{name}.png"))
    if comparison:
        first, second = comparison["names"]
        figure = comparison_bars(evaluations[first], evaluations[second], comparison)
        drawn.append(_save(figure, results_dir / f"comparison_{first}_{second}.png"))
    return drawn


def _save(figure: Any, path: Path) -> Path:
    import matplotlib.pyplot as plt

    from goodreads.common.files import atomic_path

    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", bbox_inches="tight")
    plt.close(figure)
    log.info("drew %s", path)
    return path


def training_curves(record: dict[str, Any]) -> Any:
    """Losses (left) and test accuracy (right) per epoch."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in record["epochs"]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for key, label, color, style in (
        ("train_loss", "Training", BLUE, "o-"),
        ("validation_loss", "Validation", GREEN, "^:"),
        ("test_loss", "Test", ORANGE, "s--"),
    ):
        if all(key in row for row in record["epochs"]):
            left.plot(epochs, [row[key] for row in record["epochs"]], style, color=color, label=label)
    left.set(xlabel="Epoch", ylabel="Loss", title="Loss per epoch")
    left.legend(frameon=False)
    accuracy = [row["test_accuracy"] for row in record["epochs"]]
    right.plot(epochs, accuracy, "s--", color=ORANGE)
    for epoch, value in zip(epochs, accuracy):
        right.annotate(f"{value:.3f}", (epoch, value), xytext=(0, 7), textcoords="offset points", ha="center")
    right.set(xlabel="Epoch", ylabel="Accuracy", title="Test accuracy per epoch")
    right.margins(y=0.2)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return figure


def confusion(result: dict[str, Any]) -> Any:
    """The confusion matrix: counts, with each row's percentages beneath and as colour."""
    import matplotlib.pyplot as plt
    import numpy as np
    import seaborn as sns

    counts = np.array(result["confusion_matrix"])
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = np.array([[f"{c}\n{s:.0f} %" for c, s in zip(*row)] for row in zip(counts, shares)])
    names = [GENRES[label] for label in result["labels"]]
    size = 2.5 + 0.85 * len(names)
    figure, axes = plt.subplots(figsize=(size + 1, size), layout="constrained")
    sns.heatmap(
        shares, annot=texts, fmt="", cmap="Blues", vmin=0, vmax=100, linewidths=0.5, ax=axes,
        xticklabels=names, yticklabels=names, annot_kws={"size": 9},
        cbar_kws={"label": "% of the true genre", "shrink": 0.8},
    )  # fmt: skip
    axes.set(xlabel="Predicted genre", ylabel="True genre", title=_title("Confusion matrix", result))
    axes.set_xticks(axes.get_xticks(), names, rotation=40, ha="right", rotation_mode="anchor")
    return figure


def per_class_bars(result: dict[str, Any]) -> Any:
    """Precision, recall and F1 of each genre."""
    import matplotlib.pyplot as plt
    import numpy as np

    rows = [result["per_class"][label] for label in result["labels"]]
    place = np.arange(len(rows))
    figure, axes = plt.subplots(figsize=(1.25 * len(rows) + 2, 4.4), layout="constrained")
    for i, (key, label, color) in enumerate(
        (("precision", "Precision", BLUE), ("recall", "Recall", ORANGE), ("f1", "F1", GREEN))
    ):
        bars = axes.bar(place + 0.27 * (i - 1), [row[key] for row in rows], 0.27, label=label, color=color)
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=1)
    names = [GENRES[label] for label in result["labels"]]
    axes.set_xticks(place, names, rotation=25, ha="right", rotation_mode="anchor")
    axes.set(ylim=(0, 1.05), ylabel="Score", title=_title("Per-genre metrics", result))
    figure.legend(frameon=False, ncols=3, loc="outside lower center")
    return figure


def overall_bars(result: dict[str, Any]) -> Any:
    """The headline scores with their 95 % intervals; the loss, on another scale, in the title."""
    import matplotlib.pyplot as plt

    names = [name for name in METRICS if name != "loss"]
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    _interval_bars(
        axes, range(len(names)), [result["metrics"][name] for name in names], 0.6, BLUE, result["name"]
    )
    axes.set_xticks(range(len(names)), [METRICS[name] for name in names], rotation=12)
    loss = result["metrics"]["loss"]
    title = _title("Overall metrics", result)
    title += f"\nloss {loss['value']:.4f} ({loss['low']:.4f} to {loss['high']:.4f})"
    axes.set(ylim=(0, 1), ylabel="Score, with 95 % interval", title=title)
    return figure


def comparison_bars(first: dict[str, Any], second: dict[str, Any], comparison: dict[str, Any]) -> Any:
    """The rows of the comparison table as pairs of bars, with the verdict."""
    import matplotlib.pyplot as plt
    import numpy as np

    place = np.arange(len(METRICS))
    figure, axes = plt.subplots(figsize=(9, 4.4), layout="constrained")
    for i, (result, color) in enumerate(((first, BLUE), (second, ORANGE))):
        entries = [result["metrics"][name] for name in METRICS]
        name = NAMES.get(result["name"], result["name"])
        _interval_bars(axes, place + 0.38 * (i - 0.5), entries, 0.38, color, name)
    axes.set_xticks(place, list(METRICS.values()), rotation=12)
    axes.set(ylabel="Value, with 95 % interval", title=f"{comparison['verdict']}: {comparison['reason']}")
    axes.margins(y=0.15)
    figure.legend(frameon=False, ncols=2, loc="outside lower center")
    return figure


def _interval_bars(
    axes: Any, place: Any, entries: list[dict[str, float]], width: float, color: str, label: str
) -> None:
    values = [entry["value"] for entry in entries]
    errors = [
        [max(0.0, e["value"] - e["low"]) for e in entries],
        [max(0.0, e["high"] - e["value"]) for e in entries],
    ]
    axes.bar(place, values, width, color=color, label=label, yerr=errors, capsize=3, ecolor="#444444")
    for x, entry in zip(place, entries):
        axes.annotate(
            f"{entry['value']:.4f}", (x, entry["high"]), xytext=(0, 4), textcoords="offset points",
            ha="center", fontsize=8,
        )  # fmt: skip


def _title(what: str, result: dict[str, Any]) -> str:
    kind = "generated test reviews" if result["data"]["source"] == "sample" else "test reviews"
    return f"{what}: {NAMES.get(result['name'], result['name'])} ({result['data']['reviews']:,} {kind})"


def markdown_table(comparison: dict[str, Any]) -> str:
    """The reference's Table 2 as Markdown with four decimals, and the verdict with what it rests on."""
    first, second = (NAMES.get(name, name) for name in comparison["names"])
    lines = [f"| Metric | {first} | {second} | Diff |", "|---|---|---|---|"]
    for name, label in METRICS.items():
        row = comparison["metrics"][name]
        values = " | ".join(f"{row[key]:.4f}" for key in ("first", "second", "difference"))
        lines.append(f"| {label} | {values} |")
    lines += ["", f"{comparison['verdict']}: {comparison['reason']}."]
    if "reviews" in comparison:
        lines[-1] += (
            f" {comparison['reviews']:,} reviews, predictions agree on {comparison['argmax_agreement']:.2%}, "
            f"largest logit difference {comparison['max_abs_logit_difference']:.3g}."
        )
    if "mcnemar" in comparison:
        test, gain = comparison["mcnemar"], comparison["accuracy_difference"]
        lines.append(
            f"Accuracy differs by {gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}); McNemar: "
            f"{first} alone right on {test['only_first_right']}, {second} alone on "
            f"{test['only_second_right']}, p = {test['p_value']:.3g}."
        )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="plot_results.py")
    parser.add_argument(
        "--results-dir",
        type=Path,
        default=Path("results"),
        help="folder of the results files and the pictures",
    )
    parser.add_argument(
        "--compare",
        default=COMPARED,
        metavar="A,B",
        help="names of two evaluations to hold against each other",
    )
    parser.add_argument("--no-plots", action="store_true", help="compare only; needs no matplotlib")
    parser.add_argument("--seed", type=int, default=42, help="of the bootstrap, where weights differ")
    return parser.parse_args()


if __name__ == "__main__":
    run(main, "plot_results.py")

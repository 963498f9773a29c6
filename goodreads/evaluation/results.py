"""The files of one evaluation, NAME being the part of the file names that tells evaluations apart.

``eval_results_NAME.json`` has every number and names the predictions by hash; ``predictions_NAME.parquet``
has the logits of each review, ``classification_report_NAME.txt`` the table, ``errors_NAME.md`` the worst
mistakes with their text. README, "Files", has the format.
"""

import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import softmax
from sklearn.metrics import classification_report

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_files, locked, read_json, sha256_file, write_json, write_text
from goodreads.common.progress import log
from goodreads.data.genres import GENRES
from goodreads.data.review_files import UCSD

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from goodreads.data.split_store import Split

FORMAT = 1
METRICS = {  # the reference's Table 2, in its order
    "accuracy": "Accuracy",
    "precision_weighted": "Precision (weighted)",
    "recall_weighted": "Recall (weighted)",
    "f1_weighted": "F1 (weighted)",
    "loss": "Loss",
}
REQUIRED = "labels model data metrics per_class confusion_matrix created dtype predictions_sha256".split()
EACH, LETTERS = 3, 300  # mistakes shown per pair of genres; letters of a review's text
WARNING = "**Not for publication.** This file holds text of reviews; push_to_hub.py never publishes it."
TITLES = {"local": "Local", "hub": "Hub", "tfidf": "TF-IDF baseline"}


def file_of(results_dir: Path, name: str) -> Path:
    """Where the evaluation called ``name`` stands."""
    return results_dir / f"eval_results_{name}.json"


def evaluate_command(results_dir: Path, name: str) -> str:
    """The command that makes that evaluation anew, for hints."""
    options = {"local": "", "tfidf": " --model tfidf"}.get(name, f" --model ... --name {name}")
    return f"python evaluate_model.py{options} --results-dir {shlex.quote(str(results_dir))} --force"


def read(results_dir: Path, name: str) -> dict[str, Any]:
    """The evaluation of that name, whatever name the file itself gives.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    path, command = file_of(results_dir, name), evaluate_command(results_dir, name)
    document = read_json(path, command)
    missing = [key for key in REQUIRED if not document.get(key)]
    if missing or document.get("format") != FORMAT:
        raise InputError(f"{path} is not an evaluation of format {FORMAT}; make it again with: {command}")
    return document | {"name": name}


def read_all(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Every evaluation in the folder by the name of its file, "local" and "hub" first.

    Raises:
        InputError: there is none, or one is damaged.
    """
    names = {path.stem.removeprefix("eval_results_") for path in results_dir.glob("eval_results_*.json")}
    if not names:
        command = evaluate_command(results_dir, "local")
        raise InputError(f"{results_dir} has no eval_results_*.json; make one with: {command}")
    first = [name for name in ("local", "hub") if name in names]
    return {name: read(results_dir, name) for name in [*first, *sorted(names.difference(first))]}


def read_predictions(results_dir: Path, document: dict[str, Any]) -> pa.Table:
    """The predictions that belong to an evaluation; raises InputError if they are missing or others."""
    path = results_dir / f"predictions_{document['name']}.parquet"
    if not path.is_file() or sha256_file(path) != document["predictions_sha256"]:
        command = evaluate_command(results_dir, document["name"])
        raise InputError(f"{path} is missing, or of another evaluation; make it again with: {command}")
    return pq.read_table(path)


def check_replaceable(results_dir: Path, name: str, model: dict[str, Any], force: bool) -> None:
    """Raise InputError if the results of ``model`` would replace another model's, unless ``force``."""
    if force or not file_of(results_dir, name).exists():
        return
    found = read(results_dir, name)["model"]
    if found["weights_sha256"] != model["weights_sha256"]:
        path, weights = file_of(results_dir, name), str(found["weights_sha256"])[:8]
        known = f"{path} is of another model ({found['source']}, weights {weights})"
        raise InputError(f"{known}; give --name for a name of its own, or replace it with --force")


def write(results_dir: Path, result: dict[str, Any], split: "Split", logits: "NDArray[np.float32]") -> str:
    """Write the four files of an evaluation, all of them or none.

    Args:
        results_dir: the folder, made if missing.
        result: the document; gets ``predictions_sha256``.
        split: the reviews.
        logits: shape (n, labels), columns in the order of the split's labels.

    Returns:
        scikit-learn's classification report.

    Raises:
        InputError: the folder cannot be written.
    """
    name, predictions, genres = result["name"], logits.argmax(axis=1), genre_names(split.label_names)
    known: Any = {"labels": range(len(genres)), "target_names": genres, "digits": 4, "zero_division": 0}
    report = str(classification_report(split.labels, predictions, **known)).rstrip()
    columns = {"review_id": split.review_ids, "label": split.labels, "prediction": predictions}
    columns |= {f"logit_{genre}": logits[:, i] for i, genre in enumerate(split.label_names)}
    with locked(results_dir), atomic_files(results_dir) as folder:
        path = folder / f"predictions_{name}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd")
        result["predictions_sha256"] = sha256_file(path)
        write_text(folder / f"classification_report_{name}.txt", report + "\n")
        write_text(folder / f"errors_{name}.md", errors_markdown(split, logits))
        write_json(folder / f"eval_results_{name}.json", result)
    log.info("wrote %s, its report, predictions and errors", file_of(results_dir, name))
    return report


def errors_markdown(split: "Split", logits: "NDArray[np.float32]") -> str:
    """The confused pairs, most frequent first, each with its most confident mistakes.

    Args:
        split: n reviews.
        logits: shape (n, labels), columns in the order of the split's labels.
    """
    names = genre_names(split.label_names)
    probabilities = softmax(logits.astype(np.float64), axis=1)
    labels, predictions = np.array(split.labels), logits.argmax(axis=1)
    pairs: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i in np.argsort(-probabilities.max(axis=1), kind="stable"):
        if labels[i] != predictions[i]:
            pairs[labels[i], predictions[i]].append(int(i))
    wrong = sum(map(len, pairs.values()))
    lines = ["# Mistakes", "", WARNING, "", f"{wrong:,} of {len(labels):,} reviews are misclassified."]
    for (true, taken), rows in sorted(pairs.items(), key=lambda item: (-len(item[1]), item[0])):
        support = np.count_nonzero(labels == true)
        lines += ["", f"## {names[true]} taken for {names[taken]}: {len(rows)} of {support}", ""]
        for i in rows[:EACH]:
            sure, left = (f"{probabilities[i, label]:.3f} {names[label]}" for label in (taken, true))
            lines += [f"- {sure}, {left}; review {split.review_ids[i]}", ""]
            lines += [f"  > {_quoted(split.texts[i])}", ""]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """The beginning of a review on one line, with Markdown's and HTML's characters escaped."""
    text = " ".join(text.split())
    text = text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text) or "(empty)"


def table(result: dict[str, Any]) -> str:
    """The headline metrics with their intervals, and what else the numbers depend on."""
    lines = [f"{result['name']}: {origin(result)} on {reviews(result)}", f"{'':<33}value   95 % interval"]
    rows = list(result["metrics"].items())
    for name, subset in result["subsets"].items():
        if subset and subset["accuracy"]:
            rows.append((f"accuracy, {name.replace('_', ' ')} ({subset['reviews']:,})", subset["accuracy"]))
    for name, entry in rows:
        lines.append(f"{name:<30}{entry['value']:>8.4f}   {entry['low']:.4f} to {entry['high']:.4f}")
    error = result["calibration"]["expected_calibration_error"]
    return "\n".join([*lines, f"{'calibration error':<30}{error:>8.4f}"])


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The machine-readable summary that is printed last."""
    model, values = result["model"], {name: entry["value"] for name, entry in result["metrics"].items()}
    values["calibration_error"] = result["calibration"]["expected_calibration_error"]
    return {
        **{"name": result["name"], "model": model["source"], "weights_sha256": model["weights_sha256"]},
        "reviews": result["data"]["reviews"],
        **{name: round(value, 4) for name, value in values.items()},
        "reviews_per_second": round(result["throughput"]["reviews_per_second"], 1),
    }


def title(name: str) -> str:
    """How an evaluation is called in tables and pictures."""
    return TITLES.get(name, name if len(name) <= 24 else f"{name[:23]}…")


def genre_names(labels: list[str]) -> list[str]:
    """The names that readers know of some slugs."""
    return [GENRES.get(label, label) for label in labels]


def origin(document: dict[str, Any]) -> str:
    """Model, repository and commit of an evaluation in one phrase, without the path of a folder."""
    model = document["model"]
    where = Path(model["source"]).resolve().name
    if model.get("commit"):
        where = f"{model['source']} at commit {model['commit'][:10]}"
    return f"{where} (weights {(model['weights_sha256'] or 'unknown')[:8]})"


def reviews(document: dict[str, Any]) -> str:
    """Which reviews an evaluation is of, when it was made, and by which commit of this code."""
    data = document["data"]
    known = {"sample": "generated test reviews, which say nothing of real ones", UCSD: "UCSD test reviews"}
    kind = known.get(data["source"]) or f"test reviews from {Path(data['source']).name}"
    return f"{data['reviews']:,} {kind}; evaluated {made_by(document)}"


def made_by(document: dict[str, Any]) -> str:
    """When a file was made, and by which commit of this code."""
    code = document.get("git_commit")
    return str(document["created"])[:10] + (f" by code at commit {code[:10]}" if code else "")


def notes(results: Sequence[dict[str, Any]]) -> list[str]:
    """Where some evaluations come from; the reviews once if they are of the same."""
    data = dict.fromkeys(reviews(result) for result in results)
    return [*(f"{title(result['name'])}: {origin(result)}" for result in results), *data]

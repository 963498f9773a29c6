"""The files of one evaluation, NAME being the part of the file names that tells evaluations apart.

``eval_results_NAME.json`` has every number and names the predictions by hash; ``predictions_NAME.parquet``
has the logits of each review, ``classification_report_NAME.txt`` the table, ``errors_NAME.md`` the worst
mistakes with their text. README, "Files", has the format.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from textwrap import shorten
from typing import Any

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
from goodreads.data.split_store import Split
from goodreads.evaluation.metrics import Floats

Document = dict[str, Any]
FORMAT = 1
METRICS = {  # the reference's Table 2, in its order
    "accuracy": "Accuracy",
    "precision_weighted": "Precision (weighted)",
    "recall_weighted": "Recall (weighted)",
    "f1_weighted": "F1 (weighted)",
    "loss": "Loss",
}
EACH, LETTERS = 3, 300  # mistakes shown per pair of genres; letters of a review's text
WARNING = "**Not for publication.** This file holds text of reviews; push_to_hub.py never publishes it."
TITLES = {"local": "Local", "hub": "Hub", "tfidf": "TF-IDF baseline"}
KINDS = {"sample": "generated test reviews, which say nothing of real ones", UCSD: "UCSD test reviews"}


def file_of(results_dir: Path, name: str) -> Path:
    """Where the evaluation called ``name`` stands."""
    return results_dir / f"eval_results_{name}.json"


def evaluate_command(folder: Path, name: str) -> str:
    """The command that makes that evaluation anew, for hints."""
    return f"python evaluate_model.py --model ... --name {name} --results-dir {quote(str(folder))} --force"


def read(results_dir: Path, name: str) -> Document:
    """The evaluation of that name, whatever name the file itself gives.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    path, command = file_of(results_dir, name), evaluate_command(results_dir, name)
    document = read_json(path, command)
    if document.get("format") != FORMAT:
        raise InputError(f"{path} is not an evaluation of format {FORMAT}; make it again with: {command}")
    return document | {"name": name}


def read_all(results_dir: Path) -> dict[str, Document]:
    """Every evaluation in the folder by the name of its file.

    Raises:
        InputError: there is none, or one is damaged.
    """
    paths = results_dir.glob("eval_results_*.json")
    names = sorted(path.stem.removeprefix("eval_results_") for path in paths)
    return {name: read(results_dir, name) for name in names or ["local"]}


def read_predictions(results_dir: Path, document: Document) -> pa.Table:
    """The predictions that belong to an evaluation; raises InputError if they are missing or others."""
    path = results_dir / f"predictions_{document['name']}.parquet"
    if not path.is_file() or sha256_file(path) != document["predictions_sha256"]:
        command = evaluate_command(results_dir, document["name"])
        raise InputError(f"{path} is missing, or of another evaluation; make it again with: {command}")
    return pq.read_table(path)


def check_replaceable(results_dir: Path, name: str, model: Document, force: bool) -> None:
    """Raise InputError if the results of ``model`` would replace another model's, unless ``force``."""
    path = file_of(results_dir, name)
    if path.exists() and not force:
        found = read(results_dir, name)["model"]
        if found["weights_sha256"] != model["weights_sha256"]:
            known = f"{path} is of another model ({found['source']}, weights {found['weights_sha256']!s:.8})"
            raise InputError(f"{known}; give --name for a name of its own, or replace it with --force")


def write(results_dir: Path, result: Document, split: Split, logits: Floats) -> str:
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
    genres = [GENRES[label] for label in split.label_names]
    name, predictions = result["name"], logits.argmax(axis=1)
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


def errors_markdown(split: Split, logits: Floats) -> str:
    """The confused pairs, most frequent first, each with its most confident mistakes.

    Args:
        split: n reviews.
        logits: shape (n, labels), columns in the order of the split's labels.
    """
    names, predictions = [GENRES[label] for label in split.label_names], logits.argmax(axis=1)
    confidence = softmax(logits.astype(np.float64), axis=1).max(axis=1)
    mistakes: dict[str, list[str]] = defaultdict(list)
    for i in np.argsort(-confidence, kind="stable"):
        if (label := split.labels[i]) != predictions[i]:
            text = shorten(split.texts[i], LETTERS, placeholder=" …")
            quoted = re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text)  # Markdown's and HTML's characters
            entry = f"- {confidence[i]:.3f}, review {split.review_ids[i]}: {quoted}"
            mistakes[f"{names[label]} taken for {names[predictions[i]]}"].append(entry)
    wrong = sum(map(len, mistakes.values()))
    parts = ["# Mistakes", WARNING, f"{wrong:,} of {len(split):,} reviews are misclassified."]
    for pair, entries in sorted(mistakes.items(), key=lambda item: -len(item[1])):
        parts += [f"## {pair}: {len(entries)}", *entries[:EACH]]
    return "\n\n".join(parts) + "\n"


def table(result: Document) -> str:
    """The headline metrics with their intervals, and what else the numbers depend on."""
    rows = list(result["metrics"].items())
    for name, subset in result["subsets"].items():
        rows.append((f"accuracy, {name.replace('_', ' ')} ({subset['reviews']:,})", subset["accuracy"]))
    lines = [f"{name:<30}{e['value']:>8.4f}   {e['low']:.4f} to {e['high']:.4f}" for name, e in rows]
    return "\n".join([*notes([result]), f"{'':<33}value   95 % interval", *lines])


def summary(result: Document) -> Document:
    """The machine-readable summary that is printed last."""
    model, numbers = result["model"], {name: entry["value"] for name, entry in result["metrics"].items()}
    numbers["calibration_error"] = result["calibration"]["expected_calibration_error"]
    known = {"name": result["name"], "model": model["source"], "weights_sha256": model["weights_sha256"]}
    known["reviews"] = result["data"]["reviews"]
    return known | {name: round(value, 4) for name, value in numbers.items()}


def title(name: str) -> str:
    """How an evaluation is called in tables and pictures."""
    return TITLES.get(name, name if len(name) <= 24 else f"{name[:23]}…")


def notes(results: Sequence[Document]) -> list[str]:
    """Of which model, repository and commit each evaluation is, without the path of a folder; and of which
    reviews, when made and by which code, once if that is the same."""
    models, data = [], []
    for result in results:
        model, reviews = result["model"], result["data"]
        where = Path(model["source"]).resolve().name
        if "commit" in model:
            where = f"{model['source']} at commit {model['commit'][:10]}"
        models.append(f"{title(result['name'])}: {where} (weights {str(model['weights_sha256'])[:8]})")
        source = reviews["parameters"]["source"]
        kind = KINDS.get(source) or f"test reviews from {Path(source).name}"
        data.append(f"{reviews['reviews']:,} {kind}; evaluated {made_by(result)}")
    return [*models, *dict.fromkeys(data)]


def made_by(document: Document) -> str:
    """When a file was made, and by which commit of this code."""
    code = document.get("git_commit")
    return str(document["created"])[:10] + (f" by code at commit {code[:10]}" if code else "")

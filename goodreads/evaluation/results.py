"""The files of one evaluation, NAME being the part of the file names that tells evaluations apart.

``eval_results_NAME.json`` has every number and names the predictions by hash; ``predictions_NAME.parquet``
has the logits of each review, ``classification_report_NAME.txt`` the table, ``errors_NAME.md`` the worst
mistakes with their text. README, "Files", has the format.
"""

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.common.errors import InputError
from goodreads.common.files import (
    atomic_files,
    locked,
    read_json,
    sha256_file,
    write_json,
    write_text,
)
from goodreads.common.progress import log
from goodreads.data.genres import GENRES
from goodreads.data.review_files import UCSD
from goodreads.evaluation.errors import errors_markdown

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
SUBSETS = {"unseen_books": "unseen books", "not_cut": "not cut"}


def file_of(results_dir: Path, name: str) -> Path:
    """Where the evaluation called ``name`` stands."""
    return results_dir / f"eval_results_{name}.json"


def evaluate_command(results_dir: Path, name: str) -> str:
    """The command that makes that evaluation anew, for hints."""
    options = "" if name == "local" else f" --model ... --name {name}"
    return f"python evaluate_model.py{options} --results-dir {shlex.quote(str(results_dir))}"


def read(results_dir: Path, name: str) -> dict[str, Any]:
    """The evaluation of that name, whatever name the file itself gives.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    path, command = file_of(results_dir, name), evaluate_command(results_dir, name)
    document = read_json(path, command)
    try:
        size = (len(document["labels"]),) * 2
        good = document["format"] == FORMAT and np.array(document["confusion_matrix"], int).shape == size
        entries = [document["metrics"][metric] for metric in METRICS]
        good &= all(math.isfinite(entry[key]) for entry in entries for key in ("value", "low", "high"))
        rows = [document["per_class"][label] for label in document["labels"]]
        good &= all(math.isfinite(row[key]) for row in rows for key in ("precision", "recall", "f1"))
        good &= all(isinstance(document[key], str) for key in ("dtype", "predictions_sha256", "created"))
        good &= isinstance(document["model"]["source"], str) and isinstance(document["data"]["source"], str)
        bins = document["calibration"]["bins"] if "calibration" in document else []
        good &= all(math.isfinite(entry[key]) for entry in bins for key in ("low", "reviews", "accuracy"))
        good &= document["data"]["reviews"] > 0 and "weights_sha256" in document["model"]
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f"{path} is not an evaluation of format {FORMAT}; make it again with: {command}")
    return document | {"name": name}


def read_all(results_dir: Path) -> dict[str, dict[str, Any]]:
    """Every evaluation in the folder by the name of its file, "local" and "hub" first.

    Raises:
        InputError: there is none, or one is damaged.
    """
    names = [path.stem.removeprefix("eval_results_") for path in results_dir.glob("eval_results_*.json")]
    if not names:
        command = evaluate_command(results_dir, "local")
        raise InputError(f"{results_dir} has no eval_results_*.json; make one with: {command}")
    order = {"local": 0, "hub": 1}
    return {name: read(results_dir, name) for name in sorted(names, key=lambda n: (order.get(n, 2), n))}


def read_predictions(results_dir: Path, name: str, document: dict[str, Any]) -> pa.Table:
    """The predictions that belong to an evaluation; raises InputError if they are missing or others."""
    path = results_dir / f"predictions_{name}.parquet"
    if not path.is_file() or sha256_file(path) != document["predictions_sha256"]:
        raise InputError(
            f"{path} is {'not that of its' if path.is_file() else 'missing beside'} "
            f"{file_of(results_dir, name).name}; run again: {evaluate_command(results_dir, name)}"
        )
    return pq.read_table(path)


def check_replaceable(results_dir: Path, name: str, model: dict[str, Any], force: bool) -> None:
    """Raise InputError if the results of ``model`` would replace another model's, unless ``force``."""
    path = file_of(results_dir, name)
    if force or not path.exists():
        return
    try:
        found = read(results_dir, name)["model"]
    except InputError:
        found = {"weights_sha256": "unknown", "source": "the file is damaged"}
    if found["weights_sha256"] != model["weights_sha256"]:
        raise InputError(
            f"{path} is of another model ({found['source']}, weights {str(found['weights_sha256'])[:8]}); "
            "give --name for a name of its own, or replace it with --force"
        )


def write(
    results_dir: Path, result: dict[str, Any], report: str, split: "Split", logits: "NDArray[np.float32]"
) -> None:
    """Write the four files of an evaluation, all of them or none.

    Args:
        results_dir: the folder, made if missing.
        result: the document; gets ``predictions_sha256``.
        report: the classification report.
        split: the reviews.
        logits: shape (n, labels), columns in the order of the split's labels.

    Raises:
        InputError: the folder cannot be written.
    """
    name = result["name"]
    columns = {
        "review_id": pa.array(split.review_ids, pa.string()),
        "label": pa.array(split.labels, pa.int64()),
        "prediction": pa.array(logits.argmax(axis=1), pa.int64()),
    } | {f"logit_{genre}": pa.array(logits[:, i], pa.float32()) for i, genre in enumerate(split.label_names)}
    with locked(results_dir), atomic_files(results_dir) as folder:
        predictions = folder / f"predictions_{name}.parquet"
        pq.write_table(pa.table(columns), predictions, compression="zstd")
        result["predictions_sha256"] = sha256_file(predictions)
        write_text(folder / f"classification_report_{name}.txt", report + "\n")
        write_text(folder / f"errors_{name}.md", errors_markdown(split, logits))
        write_json(folder / f"eval_results_{name}.json", result)
    log.info("wrote %s, its report, predictions and errors", file_of(results_dir, name))


def table(result: dict[str, Any]) -> str:
    """The headline metrics with their intervals, and what else the numbers depend on."""
    lines = [f"{result['name']}: {origin(result)} on {reviews(result)}"]
    lines.append(f"{'':<26}{'value':>8}   95 % interval")
    rows = {name: (entry, "") for name, entry in result["metrics"].items()}
    for name, subset in result["subsets"].items():
        if subset and subset["accuracy"]:
            rows[f"accuracy, {SUBSETS[name]}"] = (subset["accuracy"], f"   {subset['reviews']:,} reviews")
    for name, (entry, note) in rows.items():
        lines.append(f"{name:<26}{entry['value']:>8.4f}   {entry['low']:.4f} to {entry['high']:.4f}{note}")
    error = result["calibration"]["expected_calibration_error"]
    return "\n".join([*lines, f"{'calibration error':<26}{error:>8.4f}"])


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The machine-readable summary that is printed last."""
    return {
        "name": result["name"],
        "model": result["model"]["source"],
        "weights_sha256": result["model"]["weights_sha256"],
        "reviews": result["data"]["reviews"],
        **{name: round(entry["value"], 4) for name, entry in result["metrics"].items()},
        "calibration_error": round(result["calibration"]["expected_calibration_error"], 4),
        "reviews_per_second": round(result["throughput"]["reviews_per_second"], 1),
    }


def title(name: str) -> str:
    """How an evaluation is called in tables and pictures."""
    known = {"local": "Local", "hub": "Hub", "tfidf": "TF-IDF baseline"}
    return known.get(name, name if len(name) <= 24 else f"{name[:23]}…")


def genre_names(labels: list[str]) -> list[str]:
    """The names that readers know of some slugs."""
    return [GENRES.get(label, label) for label in labels]


def origin(document: dict[str, Any]) -> str:
    """Model, repository and commit of an evaluation in one phrase, without the path of a folder."""
    model = document["model"]
    commit = f" at commit {model['commit'][:10]}" if model.get("commit") else ""
    where = model["source"] if commit else Path(model["source"]).resolve().name
    return f"{where}{commit} (weights {(model['weights_sha256'] or 'unknown')[:8]})"


def reviews(document: dict[str, Any]) -> str:
    """Which reviews an evaluation is of, when it was made, and by which commit of this code."""
    data, code = document["data"], document.get("git_commit")
    known = {"sample": "generated test reviews, which say nothing of real ones", UCSD: "UCSD test reviews"}
    kind = known.get(data["source"]) or f"test reviews from {Path(data['source']).name}"
    by = f" by code at commit {code[:10]}" if code else ""
    return f"{data['reviews']:,} {kind}; evaluated {document['created'][:10]}{by}"

"""Score a fine-tuned model, from a folder or the Hub, on the manifest's test split.

    python evaluate_model.py                                  # model/ on data/, results named "local"
    python evaluate_model.py --model user/name                # a Hub repository, results named "hub"
    python evaluate_model.py --model user/name --revision v1  # one revision of it
    python evaluate_model.py --model user/name --split-from-hub      # on the split that the repository names

It never samples anew: the test split is the one data_loader.py wrote. A Hub model is fetched at one commit,
into a fresh cache unless one is given, and checked by hash. Labels are matched by name, so a model with the
same genres in another order is scored right, and one with other names is refused.
Writes eval_results_NAME.json, classification_report_NAME.txt and predictions_NAME.parquet.
"""

import argparse
import json
import re
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from goodreads.common.cli import Parser, run
from goodreads.common.errors import InputError
from goodreads.common.files import check_writable
from goodreads.common.progress import log
from goodreads.data.genres import GENRES, match_labels


def main() -> None:
    """Score, write the results files, print the table and one JSON line."""
    options = _options()
    log.info("evaluating %s", options.model)  # the imports that follow take seconds
    check_writable(options.results_dir)
    options.name = options.name or ("local" if Path(options.model).is_dir() else "hub")
    if not re.fullmatch(r"[\w.-]+", options.name):
        raise InputError(f"--name {options.name!r} goes into file names: use letters, digits, '.', '_', '-'")
    result = evaluate(options)
    print(table(result))
    print(json.dumps(summary(result)))


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Load the split and the model, score, and write the three results files.

    Returns:
        The document of eval_results_NAME.json.

    Raises:
        InputError: the data, the model or the results folder are not usable, or the labels do not match.
    """
    import numpy as np

    from goodreads.common.files import sha256_file
    from goodreads.data import split_store as splits

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folder, origin = resolve_model(options.model, options.revision, options.cache_dir, scratch / "model")
        data_dir = options.data_dir
        if options.split_from_hub:
            data_dir = published_split(folder, options.data_dir, scratch / "data")
        split, manifest = splits.read_split(data_dir, "test"), splits.read_manifest(data_dir)
        manifest_sha256 = sha256_file(data_dir / "manifest.json")

        from goodreads.common import machine as runtime
        from goodreads.evaluation import (
            metrics,
            scoring,  # seconds: not before the input is known to be there
        )
        from goodreads.model.checkpoint import load_classifier

        device = runtime.choose_device()
        log.info("device: %s, %s (%s); %s", device.type, device.name, device.reason, options.dtype)
        if options.dtype == "float32" and (fast := runtime.bfloat16_advice(device.type)):
            log.info("%s has instructions for bfloat16: --dtype bfloat16 takes about half the time", fast)
        if not device.is_gpu and (asked := runtime.gpu_asked_for()):
            box = [f"NO GPU, though one was asked for: {asked}.", f"Why: {device.reason}."]
            log.warning("\n%s", runtime.boxed(box))
        started = time.perf_counter()
        classifier = load_classifier(folder, options.dtype, device.type)
    columns = match_labels(classifier.labels, split.label_names, options.model)
    if columns != sorted(columns):
        log.warning("the model orders its labels otherwise than the data; matched by name: %s", columns)
    loaded = time.perf_counter()
    logits, tokens = scoring.score(classifier, split.texts)
    logits, seconds = logits[:, columns], time.perf_counter() - loaded
    result = {
        "format": 1,
        "name": options.name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": origin,
        "data": {
            "manifest_sha256": manifest_sha256,
            "test_content_sha256": manifest["splits"]["test"]["content_sha256"],
            "reviews": len(split),
            "source": manifest["parameters"]["source"],
        },
        "labels": split.label_names,
        "label_permutation": columns,
        "dtype": options.dtype,
        "device": device.type,
        "seed": options.seed,
        **metrics.figures(logits, np.array(split.labels), split.label_names, options.seed),
        "seconds": {"load": loaded - started, "score": seconds},
        "throughput": {"reviews_per_second": len(split) / seconds, "tokens_per_second": tokens / seconds},
        "environment": runtime.environment(),
    }
    write_results(options.results_dir, result, split, logits)
    return result


def resolve_model(
    model: str, revision: str | None, cache: Path | None, copy: Path
) -> tuple[Path, dict[str, Any]]:
    """The folder that holds the model, and where it came from with its hashes.

    Args:
        model: a folder, or a repository that is fetched.
        revision: of the repository.
        cache: folder that keeps its files for later runs, if any.
        copy: the folder to make of them.

    Raises:
        InputError: no such folder or repository, or it cannot be fetched.
        CheckFailed: a fetched file is not what the Hub says it is.
    """
    from goodreads.model.checkpoint import WEIGHTS, hashes

    origin: dict[str, Any] = {"source": model}
    folder = Path(model)
    if not folder.is_dir():
        if model.count("/") != 1 or model.startswith((".", "/")):
            raise InputError(f"--model {model}: no such folder; train it with train.py, or name a Hub repo")
        from goodreads.hub.client import download

        folder, origin = copy, download(model, revision, cache, copy)
    elif revision:
        raise InputError(f"--revision is for Hub repositories, and --model {model} is a folder")
    origin["files_sha256"] = hashes(folder)
    origin["weights_sha256"] = origin["files_sha256"].get(WEIGHTS)
    return folder, origin


def published_split(model: Path, data_dir: Path, rebuilt: Path) -> Path:
    """The data folder with the split that a published model's ``split_manifest.json`` names.

    Returns:
        ``data_dir`` if it holds that split, else ``rebuilt``, made from the split's source.

    Raises:
        InputError: the model has no split manifest, or its source no longer yields those reviews.
    """
    from goodreads.common.files import read_json
    from goodreads.data.sampling import Parameters
    from goodreads.data.split_builder import build_split
    from goodreads.data.split_store import content_sha256, read_split

    published = read_json(model / "split_manifest.json", "push_to_hub.py")
    try:
        parameters = dict(published["parameters"])
        parameters["genres"] = tuple(parameters["genres"])
        expected = published["content_sha256"]["test"]
        wanted = Parameters.from_json(parameters, "split_manifest.json")
    except (KeyError, TypeError) as error:
        raise InputError(f"split_manifest.json of the model is damaged: {error}") from error
    if (data_dir / "manifest.json").exists():
        split = read_split(data_dir, "test")
        if content_sha256(split.review_ids, split.labels, split.texts) == expected:
            return data_dir
        log.warning("%s holds another split than the model's; rebuilding it from %s", data_dir, wanted.source)
    manifest = build_split(wanted, rebuilt)
    if manifest["splits"]["test"]["content_sha256"] != expected:
        raise InputError(
            f"{wanted.source} no longer yields the reviews that the model was tested on; "
            "evaluate on a kept split with --data-dir"
        )
    return rebuilt


def write_results(results_dir: Path, result: dict[str, Any], split: Any, logits: Any) -> None:
    """Write predictions, report and results; the JSON last, since it vouches for the others.

    Raises:
        InputError: the folder cannot be written to.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from goodreads.common.files import atomic_path, sha256_file, write_json, write_text

    name = result["name"]
    predictions = results_dir / f"predictions_{name}.parquet"
    columns = {
        "review_id": pa.array(split.review_ids, pa.string()),
        "label": pa.array(split.labels, pa.int64()),
        "prediction": pa.array(logits.argmax(axis=1), pa.int64()),
    } | {f"logit_{genre}": pa.array(logits[:, i], pa.float32()) for i, genre in enumerate(split.label_names)}
    with atomic_path(predictions) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    result["predictions_sha256"] = sha256_file(predictions)
    write_text(results_dir / f"classification_report_{name}.txt", classification_report(result) + "\n")
    write_json(results_dir / f"eval_results_{name}.json", result)
    log.info("wrote %s, its report and its predictions", results_dir / f"eval_results_{name}.json")


def classification_report(result: dict[str, Any]) -> str:
    """The per-class figures as text, laid out as scikit-learn's classification_report."""
    metrics, n = result["metrics"], result["data"]["reviews"]
    lines = [f"{'':>24}{'precision':>11}{'recall':>11}{'f1-score':>11}{'support':>11}", ""]
    for slug, row in result["per_class"].items():
        values = f"{row['precision']:>11.4f}{row['recall']:>11.4f}{row['f1']:>11.4f}{row['support']:>11}"
        lines.append(f"{GENRES[slug]:>24}{values}")
    lines += ["", f"{'accuracy':>24}{'':>22}{metrics['accuracy']['value']:>11.4f}{n:>11}"]
    for average in ("macro", "weighted"):
        values = "".join(
            f"{metrics[f'{m}_{average}']['value']:>11.4f}" for m in ("precision", "recall", "f1")
        )
        lines.append(f"{average + ' avg':>24}{values}{n:>11}")
    return "\n".join(lines)


def table(result: dict[str, Any]) -> str:
    """The headline metrics with their intervals, and the per-class report."""
    lines = [
        f"{result['name']}: {result['model']['source']} on {result['data']['reviews']:,} test reviews "
        f"({result['data']['source']})"
    ]
    if result["data"]["source"] == "sample":
        lines.append("The reviews are generated: these figures mean nothing beyond this sample run.")
    lines.append(f"{'':<20}{'value':>8}   95 % interval")
    for name, entry in result["metrics"].items():
        lines.append(f"{name:<20}{entry['value']:>8.4f}   {entry['low']:.4f} to {entry['high']:.4f}")
    return "\n".join([*lines, "", classification_report(result)])


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """What a script wants from the last line of stdout."""
    return {
        "name": result["name"],
        "model": result["model"]["source"],
        "weights_sha256": result["model"]["weights_sha256"],
        "reviews": result["data"]["reviews"],
        **{name: round(entry["value"], 4) for name, entry in result["metrics"].items()},
        "reviews_per_second": round(result["throughput"]["reviews_per_second"], 1),
    }


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="evaluate_model.py")
    add = parser.add_argument
    add("--model", default="model", metavar="PATH_OR_REPO", help="model folder, or Hub repository user/name")
    add("--revision", help="branch, tag or commit of the Hub repository; its main branch if not given")
    add("--name", help="name of the results; 'local' for a folder and 'hub' for a repository if not given")
    add(
        "--split-from-hub",
        action="store_true",
        help="score on the split that the repository's split_manifest.json names, rebuilt from its source "
        "unless --data-dir holds it",
    )
    add("--data-dir", type=Path, default=Path("data"), help="folder of the split and its manifest")
    add("--results-dir", type=Path, default=Path("results"), help="folder for the results files")
    add(
        "--cache-dir",
        type=Path,
        help="keep a fetched model here; what lies here is used if its hash is right",
    )
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="number format of the model")
    add("--seed", type=int, default=42, help="of the bootstrap intervals")
    return parser.parse_args()


if __name__ == "__main__":
    run(main, "evaluate_model.py")

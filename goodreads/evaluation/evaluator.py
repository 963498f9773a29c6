"""One evaluation: score a model or the baseline on a split, and put the result together."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import softmax
from sklearn.metrics import classification_report

from goodreads.common import machine
from goodreads.common.errors import InputError
from goodreads.common.files import sha256_file
from goodreads.common.progress import log
from goodreads.data.genres import match_labels
from goodreads.data.split_store import Split, read_manifest, read_train, train_files
from goodreads.evaluation import baseline, scoring
from goodreads.evaluation.label_map import renamed
from goodreads.evaluation.metrics import Mask, evaluation_metrics
from goodreads.evaluation.results import FORMAT, genre_names
from goodreads.model.checkpoint import Classifier, load_classifier
from goodreads.model.tokenized import tokenize_texts


@dataclass(frozen=True)
class Scores:
    """What scoring yields.

    Attributes:
        logits: shape (n, labels), columns in the order of the split's labels.
        not_cut: which reviews are scored whole, shape (n,), or None where there is no limit of length.
        details: further keys of the results file.
    """

    logits: NDArray[np.float32]
    not_cut: Mask | None
    details: dict[str, Any]


def load(folder: Path, dtype: str) -> Classifier:
    """The model in a folder on the best device, which is logged.

    Raises:
        InputError: the folder holds no trained classifier.
    """
    device = machine.choose_device()
    log.info("device: %s, %s (%s); %s", device.type, device.name, device.reason, dtype)
    if dtype == "float32" and (fast := machine.bfloat16_advice(device.type)):
        log.info("%s has instructions for bfloat16: --dtype bfloat16 takes about half the time", fast)
    if device.type == "cpu" and (asked := machine.gpu_asked_for()):
        box = [f"NO GPU, though one was asked for: {asked}.", f"Why: {device.reason}."]
        log.warning("\n%s", machine.boxed(box))
    return load_classifier(folder, dtype, device.type)


def probabilities(classifier: Classifier, texts: Sequence[str]) -> NDArray[np.float64]:
    """Probabilities of shape (n, labels), columns in the model's own order, of n texts."""
    logits, _ = scoring.score(classifier, texts)
    return np.asarray(softmax(logits.astype(np.float64), axis=1))


def score_model(folder: Path, model: str, split: Split, dtype: str, label_map: Mapping[str, str]) -> Scores:
    """Score a split with the model in a folder.

    Args:
        folder: config.json, safetensors and the tokenizer's files.
        model: how to name it in messages.
        split: its labels may stand in another order than the model's.
        dtype: ``float32`` or ``bfloat16``, of weights and arithmetic.
        label_map: what some of the model's labels stand for.

    Raises:
        InputError: the model cannot be loaded, or its labels are not the split's.
        CheckFailed: the logits are not finite.
    """
    started = time.perf_counter()
    classifier = load(folder, dtype)
    labels = renamed(classifier.labels, label_map, model)
    try:
        columns = match_labels(labels, split.label_names, model)
    except InputError as error:
        raise InputError(f"{error}; or say what they stand for: --label-map LABEL_0=children,...") from None
    if columns != sorted(columns):
        log.warning("the model's label order differs from the data's; matched by name: %s", columns)
    loaded = time.perf_counter()
    logits, tokens = scoring.score(classifier, split.texts)
    seconds = time.perf_counter() - loaded
    longer = tokenize_texts(classifier.tokenizer, split.texts, classifier.max_length + 1)
    details = {
        "label_permutation": columns,
        "dtype": dtype,
        "device": classifier.model.device.type,
        "max_length": classifier.max_length,
        "seconds": {"load": loaded - started, "score": seconds},
        "throughput": {"reviews_per_second": len(split) / seconds, "tokens_per_second": tokens / seconds},
    }
    return Scores(logits[:, columns], np.asarray(longer.lengths) <= classifier.max_length, details)


def score_baseline(data_dir: Path, split: Split) -> tuple[Scores, dict[str, Any]]:
    """Fit the baseline on a folder's train split and score ``split``; also its origin, as of a model."""
    started = time.perf_counter()
    logits, digest = baseline.score(read_train(data_dir), split.texts)
    seconds = time.perf_counter() - started
    speed = {"reviews_per_second": len(split) / seconds}
    details = {
        "dtype": "float32",
        "device": "cpu",
        "seconds": {"fit_and_score": seconds},
        "throughput": speed,
    }
    return Scores(logits, None, details), {"source": baseline.NAME, "weights_sha256": digest}


def unseen_books(data_dir: Path, split: Split) -> Mask | None:
    """Which test reviews are of books without a review in the train split; None where that is not there."""
    files = [data_dir / name for name in train_files(read_manifest(data_dir))]
    if not all(path.is_file() for path in files):
        return None
    train = pq.read_table(files, columns=["book_id"])["book_id"]
    seen = set(train.unique().to_pylist())
    return np.array([book not in seen for book in split.book_ids])


def evaluation(
    name: str, origin: dict[str, Any], data_dir: Path, split: Split, scores: Scores, seed: int
) -> tuple[dict[str, Any], str]:
    """The document of eval_results_NAME.json, and scikit-learn's classification report.

    Args:
        name: of the evaluation.
        origin: the model's source and hashes.
        data_dir, split: its folder and test split.
        scores: of the split.
        seed: of the bootstrap.
    """
    manifest, labels = read_manifest(data_dir), np.array(split.labels)
    subsets = {"unseen_books": unseen_books(data_dir, split), "not_cut": scores.not_cut}
    report = classification_report(
        labels,
        scores.logits.argmax(axis=1),
        labels=range(len(split.label_names)),
        target_names=genre_names(split.label_names),
        digits=4,
        zero_division=0,
    )
    document = {
        "format": FORMAT,
        "name": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": machine.git_commit(Path(__file__).parent),
        "model": origin,
        "data": {
            "manifest_sha256": sha256_file(data_dir / "manifest.json"),
            "test_content_sha256": manifest["splits"]["test"]["content_sha256"],
            "reviews": len(split),
            "source": manifest["parameters"]["source"],
            "parameters": manifest.get("test_parameters", manifest["parameters"]),
        },
        "labels": split.label_names,
        "seed": seed,
        **scores.details,
        **evaluation_metrics(scores.logits, labels, split.label_names, seed, subsets),
        "environment": machine.environment(),
    }
    return document, report.rstrip()

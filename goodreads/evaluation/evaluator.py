"""One evaluation: score a model on a split, and put the result together."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.special import softmax

from goodreads.common import machine
from goodreads.common.files import sha256_file
from goodreads.common.progress import log
from goodreads.data.split_store import Split, read_manifest, train_files
from goodreads.evaluation import scoring
from goodreads.evaluation.label_map import columns_of
from goodreads.evaluation.metrics import Mask, evaluation_metrics
from goodreads.evaluation.results import FORMAT
from goodreads.model.checkpoint import Classifier, load_classifier
from goodreads.model.tokenized import tokenize_texts


def load(folder: Path, dtype: str) -> Classifier:
    """The model in a folder on the best device, which is logged.

    Raises:
        InputError: the folder holds no trained classifier.
    """
    device = machine.choose_device()
    log.info("device: %s, %s (%s); %s", device.type, device.name, device.reason, dtype)
    if device.type == "cpu" and (asked := machine.gpu_asked_for()):
        box = [f"NO GPU, though one was asked for: {asked}.", f"Why: {device.reason}."]
        log.warning("\n%s", machine.boxed(box))
    return load_classifier(folder, dtype, device.type)


def probabilities(classifier: Classifier, texts: Sequence[str]) -> NDArray[np.float64]:
    """Probabilities of shape (n, labels), columns in the model's own order, of n texts."""
    logits, _ = scoring.score(classifier, texts)
    return np.asarray(softmax(logits.astype(np.float64), axis=1))


def score_model(
    folder: Path, split: Split, dtype: str, label_map: Mapping[str, str]
) -> tuple[NDArray[np.float32], dict[str, Any], Mask]:
    """Score a split of n reviews with the model in a folder.

    Args:
        folder: config.json, safetensors and the tokenizer's files.
        split: its labels may stand in another order than the model's.
        dtype: ``float32`` or ``bfloat16``, of weights and arithmetic.
        label_map: what some of the model's labels stand for.

    Returns:
        Logits of shape (n, labels), columns in the order of the split's labels; further keys of the results
        file; and which reviews the length limit leaves whole, shape (n,).

    Raises:
        InputError: the model cannot be loaded, or its labels are not the split's.
        CheckFailed: the logits are not finite.
    """
    started = time.perf_counter()
    classifier = load(folder, dtype)
    columns = columns_of(classifier.labels, split.label_names, label_map)
    if columns != sorted(columns):
        log.warning("the model's label order differs from the data's; matched by name: %s", columns)
    loaded = time.perf_counter()
    logits, tokens = scoring.score(classifier, split.texts)
    seconds = time.perf_counter() - loaded
    details = {
        "label_permutation": columns,
        "dtype": dtype,
        "device": classifier.model.device.type,
        "max_length": classifier.max_length,
        "seconds": {"load": loaded - started, "score": seconds},
        "throughput": {"reviews_per_second": len(split) / seconds, "tokens_per_second": tokens / seconds},
    }
    longer = tokenize_texts(classifier.tokenizer, split.texts, classifier.max_length + 1)
    return logits[:, columns], details, np.asarray(longer.lengths) <= classifier.max_length


def unseen_books(data_dir: Path, split: Split) -> Mask | None:
    """Which test reviews are of books without a review in the train split; None where that is not there."""
    files = [data_dir / name for name in train_files(read_manifest(data_dir))]
    if not all(path.is_file() for path in files):
        return None
    seen = set(pq.read_table(files, columns=["book_id"])["book_id"].unique().to_pylist())
    return np.array([book not in seen for book in split.book_ids])


def numbers(
    data_dir: Path, split: Split, logits: NDArray[np.float32], not_cut: Mask | None, seed: int
) -> dict[str, Any]:
    """The document of eval_results_NAME.json, but for its name, the model, and what scoring says.

    Args:
        data_dir, split: its folder and test split, n reviews.
        logits: shape (n, labels).
        not_cut: which reviews were scored whole, shape (n,), or None where there is no limit of length.
        seed: of the bootstrap.
    """
    manifest, labels = read_manifest(data_dir), np.array(split.labels)
    subsets = {"unseen_books": unseen_books(data_dir, split), "not_cut": not_cut}
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": machine.git_commit(Path(__file__).parent),
        "data": {
            "manifest_sha256": sha256_file(data_dir / "manifest.json"),
            "test_content_sha256": manifest["splits"]["test"]["content_sha256"],
            "reviews": len(split),
            "source": manifest["parameters"]["source"],
            "parameters": manifest.get("test_parameters", manifest["parameters"]),
        },
        "labels": split.label_names,
        "seed": seed,
        **evaluation_metrics(logits, labels, split.label_names, seed, subsets),
        "environment": machine.environment(),
    }

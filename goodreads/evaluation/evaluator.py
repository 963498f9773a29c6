"""One evaluation: find its split, score a model or the baseline on it, and put the result together."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import sklearn
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from goodreads.common import checkout, machine
from goodreads.common.errors import InputError
from goodreads.common.files import read_json, sha256_lines
from goodreads.common.progress import log
from goodreads.data import split_store
from goodreads.data.genres import match_labels
from goodreads.data.review_files import UCSD
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from goodreads.data.split_store import ShardedSplit, Split
from goodreads.evaluation.label_map import renamed
from goodreads.evaluation.metrics import Floats, Mask, evaluation_metrics
from goodreads.evaluation.results import FORMAT, Document
from goodreads.evaluation.scoring import score
from goodreads.model.checkpoint import Classifier, load_classifier

TRUSTED = (UCSD, "sample")  # a stranger's manifest may name no other place to read from


def published_split(model: Path, data_dir: Path, rebuilt: Path, source: str | None) -> Path:
    """The data folder with the split that a published model's ``split_manifest.json`` names.

    Args:
        model: folder of the fetched model.
        data_dir: used if it holds that split.
        rebuilt: made from the split's source otherwise.
        source: read instead of the source that the manifest names.

    Raises:
        InputError: the model has no usable split manifest, its source is not one to read from unasked, or
            that no longer has those reviews.
    """
    published = read_json(model / "split_manifest.json", "push_to_hub.py")
    parameters = {**published.get("parameters", {}), **({"source": source} if source else {})}
    wanted = Parameters.from_json(parameters, "split_manifest.json of the model")
    expected = published.get("content_sha256", {}).get("test")
    if (data_dir / "manifest.json").exists():
        if _content(split_store.read_split(data_dir, "test")) == expected:
            return data_dir
        log.warning("%s holds another split than the model's; rebuilding it from %s", data_dir, wanted.source)
    if not source and wanted.source not in TRUSTED:
        hint = "name a folder that holds it (--data-dir) or where to read the reviews (--source)"
        raise InputError(f"the model's split was made from {wanted.source}, not to be read unasked; {hint}")
    manifest = build_split(wanted, rebuilt)
    if manifest["splits"]["test"]["content_sha256"] != expected:
        raise InputError(f"{wanted.source} has changed: name a --data-dir that holds the model's test split")
    return rebuilt


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


def score_model(
    folder: Path, split: Split, dtype: str, label_map: Mapping[str, str] | None
) -> tuple[Floats, Document, Mask]:
    """Score a split of n reviews with the model in a folder.

    Args:
        folder: config.json, safetensors and the tokenizer's files.
        split: its labels may stand in another order than the model's.
        dtype: ``float32`` or ``bfloat16``, of weights and arithmetic.
        label_map: what some of the model's labels stand for.

    Returns:
        Logits of shape (n, labels), columns in the order of the split's labels; further keys of the results
        file; and which reviews are shorter than the length limit and so not cut, shape (n,).

    Raises:
        InputError: the model cannot be loaded, or its labels are not the split's.
        CheckFailed: the logits are not finite.
    """
    classifier = load(folder, dtype)
    labels, what = renamed(classifier.labels, label_map), "the model (see --label-map LABEL_0=children,...)"
    columns = match_labels(labels, split.label_names, what)
    if columns != sorted(columns):
        log.warning("the model's label order differs from the data's; matched by name: %s", columns)
    logits, tokens = score(classifier, split.texts)
    details = {"label_permutation": columns, "dtype": dtype, "max_length": classifier.max_length}
    return logits[:, columns], details, tokens < classifier.max_length


def score_baseline(train: Split | ShardedSplit, texts: list[str]) -> tuple[Floats, Document, Document]:
    """Score n reviews by TF-IDF with logistic regression, fitted on a train split.

    Words and pairs of words that stand in at least two reviews; scikit-learn's regularization (C = 1). The
    same input gives the same result.

    Returns:
        Logits and further keys as of ``score_model``, and the origin, as of a model. Its ``weights_sha256``
        is that of train split, settings and version of scikit-learn. (That of the fitted parameters would
        depend on the number of threads.)

    Raises:
        InputError: the train split lacks a genre, or is one of shards.
    """
    if not isinstance(train, Split) or len(set(train.labels)) < len(train.label_names):
        raise InputError("--model tfidf needs a train split in one file with reviews of every genre")
    log.info("fitting TF-IDF and logistic regression on %s reviews", f"{len(train):,}")
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    model = make_pipeline(words, LogisticRegression(max_iter=1_000))
    digest = sha256_lines([sklearn.__version__, repr(model), _content(train)])
    logits = model.fit(train.texts, train.labels).predict_log_proba(texts).astype(np.float32)
    return logits, {"dtype": "float32"}, {"source": "tfidf", "weights_sha256": digest}


def numbers(data_dir: Path, split: Split, logits: Floats, not_cut: Mask | None) -> Document:
    """The document of eval_results_NAME.json, but for its name, the model, and what scoring says.

    Args:
        data_dir, split: its folder and test split, n reviews.
        logits: shape (n, labels).
        not_cut: which reviews were scored whole, shape (n,), or None where there is no limit of length.
    """
    manifest = split_store.read_manifest(data_dir)
    subsets = {"unseen_books": _unseen_books(data_dir, manifest, split), "not_cut": not_cut}
    return {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": checkout.commit(Path(__file__).parent),
        "data": {
            "test_content_sha256": manifest["splits"]["test"]["content_sha256"],
            "reviews": len(split),
            "parameters": manifest.get("test_parameters", manifest["parameters"]),
        },
        "labels": split.label_names,
        "environment": machine.environment(),
        **evaluation_metrics(logits, np.array(split.labels), split.label_names, subsets),
    }


def _content(split: Split) -> str:
    return split_store.content_sha256(split.review_ids, split.labels, split.texts)


def _unseen_books(data_dir: Path, manifest: Document, split: Split) -> Mask | None:
    """Which test reviews are of books without a review in the train split; None where that is not there."""
    files = [data_dir / name for name in split_store.train_files(manifest)]
    if not all(path.is_file() for path in files):
        return None
    seen = set(pq.read_table(files, columns=["book_id"])["book_id"].unique().to_pylist())
    return np.array([book not in seen for book in split.book_ids])

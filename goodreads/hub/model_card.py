"""The model card and the split manifest that are published with a model, made from results files alone."""

import re
from pathlib import Path
from typing import Any

import jinja2

from goodreads.common import checkout
from goodreads.data.genres import GENRES
from goodreads.data.split_store import read_manifest, read_split
from goodreads.model.checkpoint import SCRATCH

TEMPLATE = Path(__file__).with_name("model_card.md")
MODEL_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")  # a model of the Hub; a folder has no page to link to


def render(repo: str, tag: str, documents: dict[str, Any]) -> str:
    """The README.md of a model repository.

    Args:
        repo: ``user/name``.
        tag: the revision that readers should name.
        documents: ``result`` (eval_results_local.json), ``training`` (training_log.json), ``manifest`` (of
            the data) and ``baseline`` (eval_results_tfidf.json, or None).

    Raises:
        KeyError, jinja2.UndefinedError: a document lacks an entry.
    """
    strict: dict[str, Any] = {"undefined": jinja2.StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    base = documents["training"]["settings"]["model_name_or_path"]
    on_hub = base != SCRATCH and MODEL_ID.fullmatch(base) and not Path(base).is_dir()
    template = jinja2.Template(TEMPLATE.read_text(encoding="utf-8"), **strict)
    texts = {"repo": repo, "tag": tag, "base": base if on_hub else Path(base).name, "base_on_hub": on_hub}
    texts["code"] = checkout.address(TEMPLATE.parent)
    numbers = {"number": "{:.4f}".format, "confusions": _confusions(documents["result"])}
    return str(template.render(documents | texts | numbers | {"genre_names": GENRES}))


def _confusions(result: dict[str, Any], most: int = 3) -> list[tuple[float, str, str]]:
    """The share, true genre and predicted genre of the most frequent confusions."""
    labels = result["labels"]
    shares = [
        (count / sum(row), GENRES[true], GENRES[other])
        for true, row in zip(labels, result["confusion_matrix"])
        for other, count in zip(labels, row)
        if true != other and count
    ]
    return sorted(shares, reverse=True)[:most]


def split_manifest(data_dir: Path) -> dict[str, Any]:
    """``split_manifest.json``: which reviews the model was trained and scored on, without their text.

    Of a model of the whole corpus the training reviews, all but the test split, are not listed.
    """
    manifest, test = read_manifest(data_dir), read_split(data_dir, "test")
    whole = "test_parameters" in manifest
    return {
        "format": 1,
        "parameters": manifest["test_parameters"] if whole else manifest["parameters"],
        "labels": manifest["labels"],
        "content_sha256": {name: entry["content_sha256"] for name, entry in manifest["splits"].items()},
        "train_review_ids": None if whole else read_split(data_dir, "train").review_ids,
        "test": [{"review_id": name, "label": label} for name, label in zip(test.review_ids, test.labels)],
    }

"""The model card and the split manifest that are published with a model, made from results files alone."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from goodreads.data.genres import GENRES
from goodreads.model.checkpoint import SCRATCH

if TYPE_CHECKING:
    from goodreads.data.split_store import Split

MODEL_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")  # a model of the Hub; a folder has no page to link to
WORDS = {
    "f1": "F1",
    "unseen_books": "of books that no training review is about",
    "not_cut": "short enough to be read to the end",
}


def render(
    repo: str,
    tag: str,
    result: dict[str, Any],
    training: dict[str, Any],
    manifest: dict[str, Any],
    **optional: Any,
) -> str:
    """The README.md of a model repository.

    Args:
        repo: ``user/name``.
        tag: the revision that readers should name.
        result, training, manifest: eval_results_local.json, training_log.json and the data manifest.
        optional: ``baseline`` (eval_results_tfidf.json), ``pictures`` (the names of those in the repository)
            and ``code`` (where the code is).

    Raises:
        KeyError, jinja2.UndefinedError: a document lacks an entry.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # Markdown
    )
    base = training["settings"]["model_name_or_path"]
    base_on_hub = base != SCRATCH and MODEL_ID.fullmatch(base) and not Path(base).is_dir()
    rows = {name: entry["rows"] for name, entry in manifest["files"].items()}
    return environment.get_template("model_card.md").render(
        {"baseline": None, "pictures": (), "code": None} | optional,
        repo=repo,
        tag=tag,
        result=result,
        training=training,
        parameters=manifest["parameters"],
        generated=manifest["parameters"]["source"] == "sample",
        scratch=base == SCRATCH,
        base=base if base_on_hub else Path(base).name,
        base_on_hub=base_on_hub,
        genre_names=GENRES,
        sampling=sampling_sentence(manifest),
        train_reviews=f"{sum(rows.values()) - rows['test.parquet']:,}",
        test_reviews=f"{rows['test.parquet']:,}",
        leaked=manifest["report"]["train_reviews_also_in_test"] - len(manifest["removed_train_review_ids"]),
        confusions=_confusions(result),
        human=human,
        number="{:.4f}".format,
    )


def human(name: str) -> str:
    """``f1_weighted`` -> ``F1, weighted average``."""
    metric, _, average = name.partition("_")
    if average in ("macro", "weighted"):
        return f"{human(metric)}, {average} average"
    return WORDS.get(name, name.capitalize())


def sampling_sentence(manifest: Mapping[str, Any]) -> str:
    """How the reviews were chosen, for the card."""

    def read(head: int | None) -> str:
        return "all reviews of each genre" if head is None else f"the first {head:,} reviews of each genre"

    drawn = manifest.get("test_parameters", manifest["parameters"])
    sample = f"{read(drawn['head'])}, {drawn['per_genre']:,} of them drawn (seed {drawn['seed']})"
    if "test_parameters" not in manifest:
        return f"{sample}, the first {drawn['train_per_genre']:,} for training"
    kept = drawn["per_genre"] - drawn["train_per_genre"]
    train = (
        f"{read(manifest['parameters']['head'])} for training, without those whose id or text is in the test"
    )
    return f"{train} split; the test split is, of {sample}, the last {kept:,}"


def _confusions(result: dict[str, Any], most: int = 3) -> list[tuple[str, str, str]]:
    """The shares in percent, true genres and predicted genres of the most frequent confusions."""
    names = [GENRES[label] for label in result["labels"]]
    shares = [
        (count / sum(row), names[i], names[j])
        for i, row in enumerate(result["confusion_matrix"])
        for j, count in enumerate(row)
        if i != j and count
    ]
    return [(f"{100 * share:.0f}", true, other) for share, true, other in sorted(shares, reverse=True)[:most]]


def split_manifest(manifest: dict[str, Any], test: "Split", train_ids: list[str] | None) -> dict[str, Any]:
    """``split_manifest.json``: which reviews the model was trained and scored on, without their text.

    Args:
        manifest: the data manifest.
        test: the test split.
        train_ids: review_ids of the train split, in order; None where it is everything but the test split.
    """
    return {
        "format": 1,
        "parameters": manifest.get("test_parameters", manifest["parameters"]),
        "labels": manifest["labels"],
        "content_sha256": {name: entry["content_sha256"] for name, entry in manifest["splits"].items()},
        "train_review_ids": train_ids,
        "test": [{"review_id": name, "label": label} for name, label in zip(test.review_ids, test.labels)],
    }

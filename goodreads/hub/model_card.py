"""The model card and the split manifest that are published with a model, made from results files alone."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from huggingface_hub import EvalResult, ModelCardData

from goodreads.data.genres import GENRES
from goodreads.model.checkpoint import SCRATCH

if TYPE_CHECKING:
    from goodreads.data.split_store import Split

MODEL_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")  # a model of the Hub; a folder has no page to link to
TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    autoescape=False,  # Markdown
)
EXAMPLES = (
    "The detective found a second body in the library, and everybody in the house had a reason to lie.",
    "The illustrations are lovely, and my four-year-old asks for this bedtime story every night.",
    "A well-researched life of the president that explains how the war was nearly lost.",
)
WORDS = {
    "f1": "F1",
    "unseen_books": "of books that no training review is about",
    "not_cut": "short enough to be read to the end",
}


def render(
    repo: str,
    result: dict[str, Any],
    training: dict[str, Any],
    manifest: dict[str, Any],
    tag: str,
    *,
    baseline: dict[str, Any] | None = None,
    pictures: frozenset[str] = frozenset(),
    code: str = "",
) -> str:
    """The README.md of a model repository.

    Args:
        repo: ``user/name``.
        result: eval_results_local.json.
        training: training_log.json.
        manifest: the data manifest.
        tag: the revision that readers should name.
        baseline: eval_results_tfidf.json.
        pictures: names of the pictures that the repository has.
        code: where the code is.

    Raises:
        KeyError, jinja2.UndefinedError: a document lacks an entry.
    """
    settings, parameters, environment = training["settings"], manifest["parameters"], training["environment"]
    base, generated = settings["model_name_or_path"], parameters["source"] == "sample"
    on_hub = bool(MODEL_ID.fullmatch(base)) and base != SCRATCH
    data = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base if on_hub else None,
        datasets=None if generated else ["ucsd-goodreads"],
        metrics=["accuracy", "precision", "recall", "f1"],
        tags=["goodreads", "genre-classification"],
        model_name=repo.partition("/")[2],
        eval_results=None if generated else _eval_results(result),
        widget=[{"text": text} for text in EXAMPLES],
    )
    rows = {name: entry["rows"] for name, entry in manifest["files"].items()}
    return TEMPLATES.get_template("model_card.md").render(
        metadata=data.to_yaml(),
        repo=repo,
        tag=tag,
        base=_base(base, on_hub),
        reviews="reviews generated in the format of" if generated else "reviews of",
        generated=generated,
        genres=", ".join(GENRES[name] for name in result["labels"]),
        genre_names=GENRES,
        sampling=sampling_sentence(manifest),
        train_reviews=f"{sum(rows.values()) - rows['test.parquet']:,}",
        test_reviews=f"{rows['test.parquet']:,}",
        leaked=manifest["report"]["train_reviews_also_in_test"] - len(manifest["removed_train_review_ids"]),
        hardware=environment["gpu"] or f"{environment['platform']}, {environment['cpus']} CPUs",
        code=code or "not stated",
        confusions=_confusions(result),
        human=human,
        number="{:.4f}".format,
        subsets=[
            (name, entry) for name, entry in result.get("subsets", {}).items() if entry and entry["reviews"]
        ],
        **{"result": result, "training": training, "settings": settings, "environment": environment},
        **{"parameters": parameters, "baseline": baseline, "pictures": pictures},
    )


def human(name: str) -> str:
    """``f1_weighted`` -> ``F1, weighted average``."""
    metric, _, average = name.partition("_")
    if name in WORDS or average not in ("macro", "weighted"):
        return WORDS.get(name, name.replace("_", " ").capitalize())
    return f"{WORDS.get(metric, metric.capitalize())}, {average} average"


def _base(name: str, on_hub: bool) -> str:
    if name == SCRATCH:
        return "A small DistilBERT trained from scratch"
    return f"[{name}](https://huggingface.co/{name})" if on_hub else f"`{Path(name).name}`"


def sampling_sentence(manifest: dict[str, Any]) -> str:
    """How the reviews were chosen, for the card."""

    def read(head: int | None) -> str:
        return "all reviews of each genre" if head is None else f"the first {head:,} reviews of each genre"

    drawn = manifest.get("test_parameters", manifest["parameters"])
    sample = f"{read(drawn['head'])}, {drawn['per_genre']:,} of them drawn (seed {drawn['seed']})"
    if "test_parameters" not in manifest:
        return f"{sample}, the first {drawn['train_per_genre']:,} for training"
    kept = drawn["per_genre"] - drawn["train_per_genre"]
    return (
        f"{read(manifest['parameters']['head'])} for training but those whose id or text stands in the test "
        f"split; for that, of {sample}, the last {kept:,}"
    )


def _eval_results(result: dict[str, Any]) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="text-classification",
            task_name="Text Classification",
            dataset_type="ucsd-goodreads",
            dataset_name="UCSD Goodreads reviews by genre",
            dataset_config="by-genre",
            dataset_split="test",
            dataset_revision=result["data"]["test_content_sha256"],
            metric_type=name.partition("_")[0],
            metric_name=human(name),
            metric_value=round(entry["value"], 4),
        )
        for name, entry in result["metrics"].items()
    ]


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
        "test": [
            {"review_id": review_id, "label": label} for review_id, label in zip(test.review_ids, test.labels)
        ],
    }

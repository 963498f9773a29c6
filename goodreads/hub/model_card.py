"""The model card and the split manifest that are published with a model, made from results files alone."""

import re
from pathlib import Path
from string import Template
from typing import Any

from goodreads.data.genres import GENRES
from goodreads.model.checkpoint import SCRATCH

BASE = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")  # a model id; a folder has no page that could be linked
TEMPLATE = Path(__file__).with_name("model_card.md")


def render(repo: str, result: dict[str, Any], log: dict[str, Any], manifest: dict[str, Any], tag: str) -> str:
    """The README.md of a model repository.

    Args:
        repo: ``user/name``.
        result: eval_results_local.json.
        log: training_log.json.
        manifest: the data manifest.
        tag: the revision that readers should name.
    """
    from huggingface_hub import ModelCardData

    settings, parameters = log["settings"], manifest["parameters"]
    base = settings["model_name_or_path"]
    data = ModelCardData(
        language="en",
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base if BASE.fullmatch(base) and base != SCRATCH else None,
        datasets=["ucsd-goodreads"],
        metrics=["accuracy", "precision", "recall", "f1"],
        tags=["goodreads", "genre-classification"],
        model_name=repo.partition("/")[2],
        eval_results=_eval_results(result),
    )
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        metadata=data.to_yaml(),
        repo=repo,
        tag=tag,
        base="A small DistilBERT from scratch"
        if base == SCRATCH
        else f"`{base if BASE.fullmatch(base) else Path(base).name}`",
        data="reviews generated in the format of" if parameters["source"] == "sample" else "reviews of",
        genres=", ".join(GENRES[name] for name in result["labels"]),
        source=parameters["source"],
        sampling=sampling_sentence(manifest),
        train=f"{sum(e['rows'] for n, e in manifest['files'].items() if n != 'test.parquet'):,}",
        test=f"{manifest['files']['test.parquet']['rows']:,}",
        leaked=manifest["report"]["train_reviews_also_in_test"] - len(manifest["removed_train_review_ids"]),
        epochs=len(log["epochs"]),
        rate=settings["learning_rate"],
        batch=settings["effective_batch_size"],
        decay=settings["weight_decay"],
        length=settings["max_length"],
        generated=GENERATED if parameters["source"] == "sample" else "",
        metrics=_metric_rows(result),
        per_class=_class_rows(result),
        confusions=_confusions(result),
        weights=result["model"]["weights_sha256"],
        content=result["data"]["test_content_sha256"],
    )


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


GENERATED = (
    "> **The reviews behind this model are generated.** Its figures say nothing beyond the sample run.\n\n"
)


def _eval_results(result: dict[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

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
            metric_name=name,
            metric_value=round(entry["value"], 4),
        )
        for name, entry in result["metrics"].items()
    ]


def _metric_rows(result: dict[str, Any]) -> str:
    rows = result["metrics"].items()
    return "\n".join(f"| {n} | {e['value']:.4f} | {e['low']:.4f} to {e['high']:.4f} |" for n, e in rows)


def _class_rows(result: dict[str, Any]) -> str:
    return "\n".join(
        f"| {GENRES[slug]} | {e['precision']:.4f} | {e['recall']:.4f} | {e['f1']:.4f} | {e['support']} |"
        for slug, e in result["per_class"].items()
    )


def _confusions(result: dict[str, Any], most: int = 3) -> str:
    labels, counts = result["labels"], result["confusion_matrix"]
    pairs = sorted(
        (
            (count / max(1, sum(row)), i, j)
            for i, row in enumerate(counts)
            for j, count in enumerate(row)
            if i != j
        ),
        reverse=True,
    )
    return "\n".join(
        f"- {100 * share:.0f} % of {GENRES[labels[i]]} is taken for {GENRES[labels[j]]}"
        for share, i, j in pairs[:most]
        if share
    )


def split_manifest(manifest: dict[str, Any], test: Any, train_ids: list[str] | None) -> dict[str, Any]:
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

"""The model card: valid metadata, the figures of the results files, and code that runs."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard

from goodreads.hub.model_card import render, sampling_sentence, split_manifest

Documents = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


@pytest.fixture
def documents(trained: Path, small_data: Path) -> Documents:
    """eval_results_local.json, training_log.json and manifest.json of a run on generated reviews."""
    results = trained / "results"
    paths = (results / "eval_results_local.json", results / "training_log.json", small_data / "manifest.json")
    result, log, manifest = (json.loads(path.read_text()) for path in paths)
    return result, log, manifest


def of_real_reviews(documents: Documents) -> Documents:
    result, log, manifest = documents
    manifest["parameters"]["source"] = "https://example.org/reviews"
    log["settings"]["model_name_or_path"] = "distilbert/distilbert-base-cased"
    return result, log, manifest


def test_the_metadata_says_what_was_measured(documents: Documents) -> None:
    result, log, manifest = of_real_reviews(documents)
    card = ModelCard(render("ada/genres", "v1", result, log, manifest))
    data = card.data
    assert (data.pipeline_tag, data.base_model) == ("text-classification", "distilbert/distilbert-base-cased")
    assert (data.license, data.datasets) == ("apache-2.0", ["ucsd-goodreads"])
    assert len(data.to_dict()["widget"]) == 3
    values = {entry.metric_name: entry.metric_value for entry in data.eval_results}
    assert values["Accuracy"] == round(result["metrics"]["accuracy"]["value"], 4)
    assert values["F1, weighted average"] == round(result["metrics"]["f1_weighted"]["value"], 4)
    assert data.eval_results[0].dataset_revision == result["data"]["test_content_sha256"]
    for row in result["per_class"].values():
        assert f"{row['f1']:.4f} | {row['support']} |" in card.content
    assert "generated" not in card.content


def test_generated_reviews_are_neither_a_data_set_nor_a_model_index(documents: Documents) -> None:
    card = ModelCard(render("ada/genres", "v1", *documents))
    assert card.data.datasets is card.data.eval_results is card.data.base_model is None
    assert "model-index" not in card.content
    assert "The reviews behind this model are generated" in card.content


def test_a_base_model_in_a_folder_is_not_taken_for_one_of_the_hub(
    documents: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, log, manifest = of_real_reviews(documents)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for base in ("models/mine", str(tmp_path / "models" / "mine")):
        log["settings"]["model_name_or_path"] = base
        card = ModelCard(render("ada/genres", "v1", result, log, manifest))
        assert card.data.base_model is None
        assert "`mine`, fine-tuned" in card.content
        assert str(tmp_path) not in card.content


def test_optional_parts_are_shown_where_they_exist(documents: Documents) -> None:
    result, log, manifest = documents
    result.pop("calibration", None)
    result.pop("subsets", None)
    options = {"pictures": frozenset({"training_loss.png"}), "code": "https://example.org/code"}
    parts = ("| baseline |", "Expected calibration error: 0.1250", "about | 9 | 0.5000", "training_loss.png")
    plain = render("ada/genres", "v1", result, log, manifest)
    assert not any(part in plain for part in (*parts, "https://example.org/code"))
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    result["calibration"] = {"expected_calibration_error": 0.125}
    result["subsets"] = {"unseen_books": {"reviews": 9, "accuracy": interval}, "not_cut": None}
    full = render("ada/genres", "v1", result, log, manifest, baseline=result, **options)
    assert all(part in full for part in (*parts, "https://example.org/code"))
    for text in (plain, full):  # no table is torn apart, and nothing is left of the template
        assert not re.search(r"\|\n\n\||{{|{%", text)
        assert not re.search(r"\n\n\n", text)


def test_the_lines_that_load_it_run_on_a_review_longer_than_the_limit(
    documents: Documents, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = render("ada/genres", "v1", *documents)
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found
    shutil.copytree(trained / "model", tmp_path / "model")
    long_review = "The detective found a second body. " * 400
    code = found[1].replace("ada/genres", str(tmp_path / "model"))
    exec(code.replace('classify("', f'classify("{long_review}'), {})
    assert "'label'" in capsys.readouterr().out


def test_the_card_says_how_the_reviews_were_chosen() -> None:
    sample_of = {"head": 10_000, "per_genre": 1_000, "train_per_genre": 800, "seed": 42}
    everything = {"head": None, "per_genre": None, "train_per_genre": None, "seed": 42}
    assert sampling_sentence({"parameters": sample_of}) == (
        "the first 10,000 reviews of each genre, 1,000 of them drawn (seed 42), the first 800 for training"
    )
    assert sampling_sentence({"parameters": everything, "test_parameters": sample_of}) == (
        "all reviews of each genre for training, without those whose id or text is in the test split; "
        "the test split is, of the first 10,000 reviews of each genre, 1,000 of them drawn (seed 42), "
        "the last 200"
    )


def test_a_published_split_names_the_test_reviews_and_how_to_draw_them() -> None:
    split = SimpleNamespace(review_ids=["r1", "r2"], labels=[1, 0])
    splits = {name: {"content_sha256": name} for name in ("train", "test")}
    manifest = {"parameters": {"head": None}, "test_parameters": {"head": 9}, "labels": [], "splits": splits}
    published = split_manifest(manifest, split, None)
    assert published["parameters"] == {"head": 9}
    assert published["train_review_ids"] is None
    assert published["content_sha256"] == {"train": "train", "test": "test"}
    assert published["test"] == [{"review_id": "r1", "label": 1}, {"review_id": "r2", "label": 0}]

"""The model card: valid metadata, the figures of the results files, and code that runs."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from goodreads.hub.model_card import render

Documents = dict[str, Any]
INTERVAL = {"value": 0.5, "low": 0.4, "high": 0.6}


@pytest.fixture
def documents(trained: Path, small_data: Path) -> Documents:
    """The files of a run on generated reviews."""
    results, manifest = trained / "results", small_data / "manifest.json"
    paths = {"result": results / "eval_results_local.json", "training": results / "training_log.json"}
    paths["manifest"] = manifest
    return {name: json.loads(path.read_text()) for name, path in paths.items()} | {"baseline": None}


@pytest.fixture
def of_real_reviews(documents: Documents) -> Documents:
    documents["manifest"]["parameters"]["source"] = "https://example.org/reviews"
    documents["training"]["settings"]["model_name_or_path"] = "distilbert/distilbert-base-cased"
    return documents


def card(documents: Documents, pictures: tuple[str, ...] = (), code: str = "") -> ModelCard:
    return ModelCard(render("ada/genres", "v1", documents, pictures, code))


def test_the_metadata_says_what_was_measured(of_real_reviews: Documents) -> None:
    content, data = card(of_real_reviews).content, card(of_real_reviews).data
    result = of_real_reviews["result"]
    assert (data.pipeline_tag, data.base_model) == ("text-classification", "distilbert/distilbert-base-cased")
    assert (data.license, data.datasets) == ("apache-2.0", ["ucsd-goodreads"])
    assert len(data.to_dict()["widget"]) == 3
    values = {entry.metric_name: entry.metric_value for entry in data.eval_results}
    assert values["Accuracy"] == round(result["metrics"]["accuracy"]["value"], 4)
    assert values["F1, weighted average"] == round(result["metrics"]["f1_weighted"]["value"], 4)
    assert data.eval_results[0].dataset_revision == result["data"]["test_content_sha256"]
    assert all(f"{row['f1']:.4f} | {row['support']} |" in content for row in result["per_class"].values())
    assert "generated" not in content


def test_generated_reviews_are_neither_a_data_set_nor_a_model_index(documents: Documents) -> None:
    content, data = card(documents).content, card(documents).data
    assert data.datasets is data.eval_results is data.base_model is None
    assert "model-index" not in content
    assert "The reviews behind this model are generated" in content


@pytest.mark.parametrize("base", ["models/mine", "/models/mine"])
def test_a_base_model_in_a_folder_is_not_taken_for_one_of_the_hub(
    of_real_reviews: Documents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    of_real_reviews["training"]["settings"]["model_name_or_path"] = base
    assert card(of_real_reviews).data.base_model is None
    assert "`mine`, fine-tuned" in card(of_real_reviews).content


def test_optional_parts_are_shown_where_they_exist(documents: Documents) -> None:
    parts = ("| baseline |", "Expected calibration error: 0.1250", "about | 9 | 0.5000", "training_loss.png")
    parts += ("https://example.org/code",)
    result = documents["result"]
    result.pop("calibration", None)
    result.pop("subsets", None)
    other_split = {**result, "data": {"test_content_sha256": "0"}}
    plain = card(documents | {"baseline": other_split}).content
    assert not any(part in plain for part in parts)
    result["calibration"] = {"expected_calibration_error": 0.125}
    result["subsets"] = {"unseen_books": {"reviews": 9, "accuracy": INTERVAL}, "not_cut": None}
    full = card(documents | {"baseline": result}, ("training_loss.png",), "https://example.org/code").content
    assert all(part in full for part in parts)
    for text in (plain, full):  # no table is torn apart, and nothing is left of the template
        assert not re.search(r"\|\n\n\||{{|{%|\n\n\n", text)


def test_the_lines_that_load_it_run_on_a_review_longer_than_the_limit(
    documents: Documents, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = re.search(r"```python\n(.*?)```", card(documents).content, re.DOTALL)
    assert found
    shutil.copytree(trained / "model", tmp_path / "model")
    code = found[1].replace("ada/genres", str(tmp_path / "model"))
    exec(code.replace('classify("', 'classify("' + "The detective found a second body. " * 400), {})
    assert "'label'" in capsys.readouterr().out


def test_the_card_says_how_the_reviews_were_chosen(documents: Documents) -> None:
    assert (
        "the first 200 reviews of each genre, 60 of them drawn (seed 42), the first 40 for training |"
        in card(documents).content
    )
    manifest = documents["manifest"]
    manifest |= {"test_parameters": manifest["parameters"], "parameters": {"source": "sample", "head": None}}
    assert (
        "all reviews of each genre for training, without those whose id or text is in the test split; the "
        "test split is, of the first 200 reviews of each genre, 60 of them drawn (seed 42), the last 20 |"
    ) in card(documents).content

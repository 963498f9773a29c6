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
DRAWN = "the first 200 reviews of each genre, 60 of them drawn (seed 42)"


@pytest.fixture
def documents(trained: Path, small_data: Path) -> Documents:
    """The files of a run on generated reviews."""
    names = {"result": "eval_results_local.json", "training": "training_log.json"}
    paths = {key: trained / "results" / name for key, name in names.items()}
    paths["manifest"] = small_data / "manifest.json"
    return {key: json.loads(path.read_text()) for key, path in paths.items()} | {"baseline": None}


@pytest.fixture
def of_real_reviews(documents: Documents) -> Documents:
    documents["manifest"]["parameters"]["source"] = "https://example.org/reviews"
    documents["training"]["settings"]["model_name_or_path"] = "distilbert/distilbert-base-cased"
    return documents


def card(documents: Documents) -> ModelCard:
    return ModelCard(render("ada/genres", "v1", documents))


def test_the_metadata_says_what_was_measured(of_real_reviews: Documents) -> None:
    content, data = card(of_real_reviews).content, card(of_real_reviews).data
    result = of_real_reviews["result"]
    assert (data.pipeline_tag, data.base_model) == ("text-classification", "distilbert/distilbert-base-cased")
    assert (data.license, data.datasets) == ("apache-2.0", ["ucsd-goodreads"])
    values = {entry.metric_name: entry.metric_value for entry in data.eval_results}
    for name, key in {"Accuracy": "accuracy", "F1, weighted average": "f1_weighted"}.items():
        assert values[name] == round(result["metrics"][key]["value"], 4)
    assert data.eval_results[0].dataset_revision == result["data"]["test_content_sha256"]
    assert all(f"{row['f1']:.4f} | {row['support']} |" in content for row in result["per_class"].values())
    assert "generated" not in content


def test_generated_reviews_are_neither_a_data_set_nor_a_model_index(documents: Documents) -> None:
    content, data = card(documents).content, card(documents).data
    assert data.datasets is data.eval_results is data.base_model is None
    assert "model-index" not in content
    assert "The reviews behind this model are generated" in content
    assert f"{DRAWN}, the first 40 for training |" in content


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
    result, manifest = documents["result"], documents["manifest"]
    result |= {"calibration": None, "subsets": None}
    plain = card(documents | {"baseline": {**result, "data": {"test_content_sha256": "0"}}}).content
    result["calibration"] = {"expected_calibration_error": 0.125}
    result["subsets"] = {"unseen_books": {"reviews": 9, "accuracy": INTERVAL}, "not_cut": None}
    manifest |= {"test_parameters": manifest["parameters"], "parameters": {"source": "sample", "head": None}}
    full = card(documents | {"baseline": result}).content
    for part in (
        *("| baseline |", "Expected calibration error: 0.1250", "about | 9 | 0.5000"),
        "all reviews of each genre for training, without those whose id or text is in the test split; the "
        f"test split is, of {DRAWN}, the last 20 |",
    ):
        assert part not in plain
        assert part in full
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

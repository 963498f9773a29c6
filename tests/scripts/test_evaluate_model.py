"""evaluate_model.py and plot_results.py, run as a user runs them."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers import assert_one_line_error, run_script, succeeded, temporary_files

PNG = b"\x89PNG\r\n\x1a\n"


def results(folder: Path, name: str = "local") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / f"eval_results_{name}.json").read_text())
    return document


def copy_of(trained: Path, folder: Path) -> Path:
    return Path(shutil.copytree(trained / "model", folder / "model"))


def edit_config(model: Path, **changes: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def test_the_results_files_agree_with_the_split_and_each_other(trained: Path, small_data: Path) -> None:
    document = results(trained / "results")
    test = pq.read_table(small_data / "test.parquet")
    predictions = pq.read_table(trained / "results" / "predictions_local.parquet")
    logits = [f"logit_{genre}" for genre in document["labels"]]
    assert predictions.column_names == ["review_id", "label", "prediction", *logits]
    assert predictions["review_id"] == test["review_id"]
    assert predictions["label"] == test["label"]
    matrix = np.stack([predictions[name].to_numpy() for name in logits], axis=1)
    assert matrix.dtype == np.float32
    assert (matrix.argmax(axis=1) == predictions["prediction"].to_numpy()).all()
    labels = test["label"].to_numpy()
    accuracy = (matrix.argmax(axis=1) == labels).mean()
    assert document["metrics"]["accuracy"]["value"] == pytest.approx(accuracy)
    loss = torch.nn.functional.cross_entropy(torch.tensor(matrix), torch.tensor(labels)).item()
    assert document["metrics"]["loss"]["value"] == pytest.approx(loss, rel=1e-5)
    for entry in document["metrics"].values():
        assert entry["low"] <= entry["value"] <= entry["high"]
    assert np.array(document["confusion_matrix"]).sum() == 160
    assert np.diag(document["confusion_matrix"]).sum() == round(accuracy * 160)
    report = (trained / "results" / "classification_report_local.txt").read_text()
    assert "Mystery/Thriller/Crime" in report
    assert f"{accuracy:.4f}" in report


def test_the_logits_are_those_of_one_review_at_a_time(trained: Path, small_data: Path) -> None:
    """Order, padding and batching change nothing; the plainest path is the reference."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(trained / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    predictions = pq.read_table(trained / "results" / "predictions_local.parquet").to_pylist()
    texts = pq.read_table(small_data / "test.parquet")["text"].to_pylist()
    for i in range(0, 160, 7):
        inputs = tokenizer(texts[i], truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**inputs).logits[0].numpy()
        found = [v for k, v in predictions[i].items() if k.startswith("logit_")]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_permuted_labels_are_matched_by_name(tmp_path: Path, trained: Path, small_data: Path) -> None:
    model = copy_of(trained, tmp_path)
    config = json.loads((model / "config.json").read_text())
    order = [3, 0, 7, 1, 2, 6, 5, 4]  # new id -> old id
    names = [config["id2label"][str(i)] for i in order]
    edit_config(model, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    tensors = load_file(model / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][order].clone()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    result = succeeded(run_script("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path))
    assert "matched by name" in result.stderr
    mine, original = results(tmp_path / "results"), results(trained / "results")
    assert [order[i] for i in mine["label_permutation"]] == list(range(8))
    assert mine["metrics"] == original["metrics"]
    assert mine["confusion_matrix"] == original["confusion_matrix"]


def test_foreign_labels_are_refused(tmp_path: Path, trained: Path, small_data: Path) -> None:
    model = copy_of(trained, tmp_path)
    names = [f"LABEL_{i}" for i in range(8)]
    edit_config(model, id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)})
    result = run_script("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path)
    assert_one_line_error(result, "LABEL_0", "are not the data's", "poetry")
    assert not (tmp_path / "results").exists()


def without_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()


def truncated_weights(model: Path) -> None:
    content = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(content[: len(content) // 2])


def damaged_header(model: Path) -> None:
    with (model / "model.safetensors").open("r+b") as file:
        file.write(struct.pack("<Q", 1 << 60))


def without_classifier(model: Path) -> None:
    tensors = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "classifier" not in name}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})


def garbled_config(model: Path) -> None:
    (model / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (without_weights, "is not a complete model: it has no model.safetensors"),
        (truncated_weights, "cannot be loaded as a classifier"),
        (damaged_header, "cannot be loaded as a classifier"),
        (without_classifier, "has no trained classifier"),
        (garbled_config, "cannot be loaded as a classifier"),
    ],
)
def test_a_damaged_model_gets_one_line(
    tmp_path: Path, trained: Path, small_data: Path, damage: Any, fragment: str
) -> None:
    damage(copy_of(trained, tmp_path))
    result = run_script("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path)
    assert_one_line_error(result, fragment)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--model", "nothing"), "--model nothing: no such folder"),
        (("--revision", "v1"), "--revision is for Hub repositories"),
        (("--name", "a/b"), "--name 'a/b' goes into file names"),
        (("--data-dir", "nothing"), "nothing/manifest.json is missing; make it with: python data_loader.py"),
        (("--dtype", "int4"), "invalid choice: 'int4'"),
        (("--results-dir", "model/config.json"), "cannot write model/config.json"),
    ],
)
def test_bad_options_get_one_line(
    tmp_path: Path, trained: Path, small_data: Path, arguments: tuple[str, ...], fragment: str
) -> None:
    copy_of(trained, tmp_path)
    result = run_script("evaluate_model.py", "--data-dir", small_data, *arguments, cwd=tmp_path)
    assert_one_line_error(result, fragment)


def test_bfloat16_scores_nearly_the_same(tmp_path: Path, trained: Path, small_data: Path) -> None:
    arguments = (
        "--model",
        trained / "model",
        "--data-dir",
        small_data,
        "--dtype",
        "bfloat16",
        "--name",
        "bf16",
    )
    succeeded(run_script("evaluate_model.py", *arguments, cwd=tmp_path))
    mine, original = results(tmp_path / "results", "bf16"), results(trained / "results")
    assert mine["dtype"] == "bfloat16"
    assert mine["metrics"]["loss"]["value"] == pytest.approx(original["metrics"]["loss"]["value"], abs=0.02)


def test_every_picture_and_the_table_are_drawn(tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained / "results", tmp_path / "results")
    hub = results(tmp_path / "results") | {"name": "hub"}
    hub["metrics"]["accuracy"]["value"] += 0.0125
    (tmp_path / "results" / "eval_results_hub.json").write_text(json.dumps(hub))
    shutil.copy(
        tmp_path / "results" / "predictions_local.parquet", tmp_path / "results" / "predictions_hub.parquet"
    )
    result = succeeded(run_script("plot_results.py", cwd=tmp_path))
    drawn = json.loads(result.stdout.splitlines()[-1])["drawn"]
    stems = ("confusion_matrix", "per_class_metrics", "overall_metrics")
    pictures = [f"{stem}_{name}.png" for name in ("hub", "local") for stem in stems]
    assert drawn == ["training_loss.png", *pictures, "comparison_local_hub.png"]
    for name in drawn:
        content = (tmp_path / "results" / name).read_bytes()
        width, height = struct.unpack(">II", content[16:24])
        assert content.startswith(PNG)
        assert width > 700
        assert height > 400
    table = (tmp_path / "results" / "comparison.md").read_text()
    assert table in result.stdout
    assert table.splitlines()[0] == "| Metric | Local | Hub | Diff |"
    assert table.splitlines()[2].endswith("| 0.0125 |")
    assert not temporary_files(tmp_path)


def test_plotting_says_what_is_missing_or_damaged(tmp_path: Path, trained: Path) -> None:
    result = run_script("plot_results.py", cwd=tmp_path)
    assert_one_line_error(result, "results has no eval_results_*.json", "python evaluate_model.py")
    shutil.copytree(trained / "results", tmp_path / "results")
    (tmp_path / "results" / "training_log.json").unlink()
    result = succeeded(run_script("plot_results.py", cwd=tmp_path))
    assert "training_loss.png is not drawn" in result.stderr
    (tmp_path / "results" / "eval_results_local.json").write_text('{"format": 1,')
    result = run_script("plot_results.py", cwd=tmp_path)
    assert_one_line_error(result, "eval_results_local.json is damaged")

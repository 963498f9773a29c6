"""train.py, run as a user runs it."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from goodreads.common.files import LOCK
from tests import helpers
from tests.helpers import QUICK, assert_one_line_error, environment, run_main, succeeded


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def training_log(folder: Path) -> Any:
    return json.loads((folder / "results" / "training_log.json").read_text())


def train(folder: Path, data: Path, *more: Any, **env: str) -> helpers.Result:
    return run_main("train.py", *QUICK, "--data-dir", data, *more, cwd=folder, env=env)


def test_a_run_leaves_a_publishable_model_and_a_complete_log(trained: Path, small_data: Path) -> None:
    model = {path.name: path for path in (trained / "model").iterdir()}
    assert model.keys() == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    labels = json.loads((small_data / "manifest.json").read_text())["labels"]
    assert list(json.loads(model["config.json"].read_text())["id2label"].values()) == labels == sorted(labels)
    assert not (trained / "model-checkpoints").exists() and not helpers.temporary_files(trained)

    log = training_log(trained)
    assert (log["steps"], log["saved_epoch"], [row["epoch"] for row in log["epochs"]]) == (20, 2, [1, 2])
    assert {"train_loss", "test_loss", "test_accuracy", "test_f1_weighted"} <= log["epochs"][0].keys()
    assert [row["step"] for row in log["losses"]] == list(range(1, 21))
    assert log["data"]["manifest_sha256"] == sha256(small_data / "manifest.json")
    assert log["model"]["files_sha256"]["model.safetensors"] == sha256(model["model.safetensors"])
    assert list(log["seconds"]) == ["start", "data", "model", "tokenize", "train", "save"]
    assert log["throughput"]["tokens_per_second"] > log["throughput"]["reviews_per_second"] > 0
    assert log["settings"]["recipe"] == "sample" and log["settings"]["learning_rate"] == 1e-3
    assert {"effective": 32, "devices": 1, "per_device": 32, "accumulation": 1}.items() <= log[
        "batch"
    ].items()


def test_a_killed_run_is_resumed_to_the_same_weights(tmp_path: Path, trained: Path, small_data: Path) -> None:
    often = ("--save_strategy", "steps", "--save_steps", 3)
    words, env = helpers.command("train.py", *QUICK, "--data-dir", small_data, *often), environment(tmp_path)
    with subprocess.Popen(words, cwd=tmp_path, env=env, text=True, stderr=subprocess.PIPE) as process:
        next(line for line in process.stderr or () if "step 8/20" in line)
        process.kill()
    result = succeeded(train(tmp_path, small_data, *often, "--resume"))
    assert "step 10/20" in result.stderr and "step 6/20" not in result.stderr
    assert sha256(tmp_path / "model" / "model.safetensors") == sha256(trained / "model" / "model.safetensors")
    resumed, whole = training_log(tmp_path), training_log(trained)
    for mine, theirs in zip(resumed["epochs"], whole["epochs"], strict=True):
        assert mine == pytest.approx(theirs)
    assert [row["loss"] for row in resumed["losses"]] == [row["loss"] for row in whole["losses"]]


def test_validation_selects_the_checkpoint_and_stops_early(tmp_path: Path, small_data: Path) -> None:
    # a rate that overshoots: validation soon gets worse
    more = ("--num_train_epochs", 12, "--learning_rate", 0.003, "--warmup_steps", 0, "--max_length", 32)
    succeeded(train(tmp_path, small_data, *more, "--validation-per-genre", 8))
    log = training_log(tmp_path)
    losses = [row["validation_loss"] for row in log["epochs"]]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 12  # two epochs without a better one
    assert log["best_checkpoint"] == f"checkpoint-{log['epochs'][best]['step']}"
    assert log["saved_epoch"] == best + 1 and log["data"]["train_reviews"] == 256
    succeeded(run_main("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path))
    found = json.loads((tmp_path / "results" / "eval_results_local.json").read_text())["metrics"]
    for name in ("accuracy", "loss"):
        assert found[name]["value"] == pytest.approx(log["epochs"][best][f"test_{name}"], abs=1e-4)


def test_a_diverging_run_leaves_model_and_log_alone(tmp_path: Path, trained: Path, small_data: Path) -> None:
    for name in ("model", "results"):
        shutil.copytree(trained / name, tmp_path / name)
    before = {path: sha256(path) for path in tmp_path.rglob("*") if path.is_file()}
    result = train(tmp_path, small_data, "--optim", "sgd", "--learning_rate", "1e38")
    assert_one_line_error(result, "diverged", code=1)
    assert {path: sha256(path) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_a_run_uses_is_said_and_links_stay(tmp_path: Path, small_data: Path) -> None:
    links = {name: tmp_path / f"disk-{name}" for name in ("model", "results")}
    for name, folder in links.items():
        folder.mkdir()
        (tmp_path / name).symlink_to(folder)
    (links["model"] / "vocab.txt").write_text("of an older model")
    env = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_MIXED_PRECISION": "bf16"}
    result = succeeded(train(tmp_path, small_data, "--max_steps", 1, "--learning-rate", "2e-3", **env))
    said = ("║ NO GPU: training runs on the CPU.", "device: cpu", "precision: bf16", "effective batch 32")
    assert all(line in result.stderr for line in said)
    settings = training_log(tmp_path)["settings"]
    assert (settings["max_length"], settings["learning_rate"], settings["bf16"]) == (64, 2e-3, True)
    # the old model is replaced as a whole
    assert all((tmp_path / name).is_symlink() for name in links)
    assert (links["model"] / "model.safetensors").is_file() and not (links["model"] / "vocab.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "env", "fragment"),
    [
        ("--require-gpu", {"CUDA_VISIBLE_DEVICES": ""}, "NVIDIA container toolkit"),
        ("--seed 1", {"LOCAL_RANK": "0"}, "MASTER_ADDR"),
        ("--model_name_or_path ./no-such-model", {}, "./no-such-model cannot be loaded"),
        ("--output_dir notes", {}, "holds letter.txt, not a model file"),
        ("--output_dir letter/model", {}, "cannot write"),
        ("--results-dir letter", {}, "cannot write letter"),
        ("--results-dir out/results --output_dir out", {}, "out/results lies in --output_dir out"),
        ("--output_dir taken", {}, "cannot write taken-checkpoints"),
        ("--output_dir /", {}, "--output_dir / holds"),
        ("--resume", {}, "no complete checkpoint in model-checkpoints"),
        ("--validation-per-genre 40", {}, "leaves children no training reviews"),
        ("--source elsewhere", {}, "data was made from sample"),
    ],
)
def test_what_cannot_work_gets_one_line(
    tmp_path: Path, small_data: Path, arguments: str, env: dict[str, str], fragment: str
) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("notes/letter.txt", "letter", "taken-checkpoints"):
        (tmp_path / name).write_text("dear reader")
    before = sorted(tmp_path.rglob("*"))
    result = train(tmp_path, small_data, *arguments.split(), HF_HUB_OFFLINE="1", **env)
    assert_one_line_error(result, fragment)
    assert not result.stdout
    assert [path for path in sorted(tmp_path.rglob("*")) if "hf" not in path.parts] == before


def test_data_is_made_if_missing_and_not_while_another_run_is_there(tmp_path: Path) -> None:
    (tmp_path / "model-checkpoints").mkdir()
    with FileLock(tmp_path / "model-checkpoints" / LOCK):
        result = train(tmp_path, tmp_path / "new")
    assert_one_line_error(result, "another run is writing to model-checkpoints")
    assert not (tmp_path / "new").exists()
    result = train(tmp_path, tmp_path / "new", "--source", "nowhere")
    assert "new holds no data: making it from nowhere" in result.stderr
    assert_one_line_error(result, "nowhere", "No such file")


def test_the_command_line_is_parsed_before_the_slow_imports() -> None:
    code = "import sys, train; train.parse('', []); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=helpers.ROOT).returncode == 0


def test_real_reviews_and_a_pretrained_checkpoint_train(tmp_path: Path, real: Path) -> None:
    data = ("--genres", "children,comics_graphic", "--head", 60, "--per-genre", 60, "--train-per-genre", 40)
    succeeded(run_main("data_loader.py", "--source", real / "goodreads", *data, cwd=tmp_path))
    more = ("--model_name_or_path", real / "models" / "distil-mini", "--learning_rate", "2e-4")
    succeeded(run_main("train.py", *more, "--max_length", 64, "--num_train_epochs", 3, cwd=tmp_path))
    result = succeeded(run_main("evaluate_model.py", cwd=tmp_path))
    assert json.loads(result.stdout.splitlines()[-1])["accuracy"] > 0.6  # chance is 0.5

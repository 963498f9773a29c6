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
from tests.helpers import QUICK, assert_one_line_error, run_main, succeeded


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def training_log(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "results" / "training_log.json").read_text())
    return document


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
    assert log["losses"][0].keys() == {"step", "epoch", "loss", "learning_rate"}
    assert log["data"]["manifest_sha256"] == sha256(small_data / "manifest.json")
    assert log["model"]["files_sha256"]["model.safetensors"] == sha256(model["model.safetensors"])
    assert {"data", "model", "tokenize", "train", "save", "evaluate_epochs"} <= log["seconds"].keys()
    assert log["throughput"]["tokens_per_second"] > log["throughput"]["reviews_per_second"] > 0
    assert log["settings"]["recipe"] == "sample" and log["settings"]["learning_rate"] == 1e-3
    plan = {"effective": 32, "devices": 1, "per_device": 32, "accumulation": 1}
    assert plan.items() <= log["batch"].items()


def test_the_last_test_record_is_what_evaluate_model_finds(trained: Path) -> None:
    last = training_log(trained)["epochs"][-1]
    result = json.loads((trained / "results" / "eval_results_local.json").read_text())["metrics"]
    assert last["test_loss"] == pytest.approx(result["loss"]["value"], abs=1e-4)
    assert last["test_accuracy"] == pytest.approx(result["accuracy"]["value"], abs=1e-9)


def test_a_killed_run_is_resumed_to_the_same_weights(tmp_path: Path, trained: Path, small_data: Path) -> None:
    arguments = (*QUICK, "--data-dir", small_data, "--save_strategy", "steps", "--save_steps", 3)
    words, env = helpers.command("train.py", *arguments), helpers.environment(tmp_path)
    with subprocess.Popen(words, cwd=tmp_path, env=env, text=True, stderr=subprocess.PIPE) as process:
        assert process.stderr
        next(line for line in process.stderr if "step 8/20" in line)
        process.kill()
    succeeded(run_main("train.py", *arguments, "--resume", cwd=tmp_path))
    assert sha256(tmp_path / "model" / "model.safetensors") == sha256(trained / "model" / "model.safetensors")
    resumed, whole = training_log(tmp_path), training_log(trained)
    assert resumed["resumed_from"] in ("checkpoint-6", "checkpoint-9")
    for mine, theirs in zip(resumed["epochs"], whole["epochs"], strict=True):
        assert mine == pytest.approx(theirs)
    assert [row["loss"] for row in resumed["losses"]] == [row["loss"] for row in whole["losses"]]


def test_validation_selects_the_checkpoint_and_stops_early(tmp_path: Path, small_data: Path) -> None:
    arguments = ("--recipe", "sample", "--max_length", 32, "--data-dir", small_data)
    # a rate that overshoots: validation soon gets worse
    arguments += ("--num_train_epochs", 12, "--learning_rate", 0.003, "--warmup_steps", 0)
    arguments += ("--validation-per-genre", 8, "--early_stopping_patience", 1)
    succeeded(run_main("train.py", *arguments, cwd=tmp_path))
    log = training_log(tmp_path)
    losses = [row["validation_loss"] for row in log["epochs"]]
    assert len(losses) < 12
    assert losses[-1] >= min(losses[:-1])
    best = log["epochs"][losses.index(min(losses))]
    assert log["best_checkpoint"] == f"checkpoint-{best['step']}"
    assert log["saved_epoch"] == best["epoch"]
    assert log["data"]["train_reviews"] == 256
    result = succeeded(run_main("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path))
    assert json.loads(result.stdout.splitlines()[-1])["accuracy"] == round(best["test_accuracy"], 4)


def test_a_diverging_run_leaves_model_and_log_alone(tmp_path: Path, trained: Path, small_data: Path) -> None:
    for name in ("model", "results"):
        shutil.copytree(trained / name, tmp_path / name)
    before = {path: sha256(path) for path in tmp_path.rglob("*") if path.is_file()}
    more = ("--data-dir", small_data, "--optim", "sgd", "--learning_rate", "1e38")
    assert_one_line_error(run_main("train.py", *QUICK, *more, cwd=tmp_path), "diverged", code=1)
    assert {path: sha256(path) for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_a_run_uses_is_said_and_links_stay(tmp_path: Path, small_data: Path) -> None:
    links = {name: tmp_path / f"disk-{name}" for name in ("model", "results")}
    for name, folder in links.items():
        folder.mkdir()
        (tmp_path / name).symlink_to(folder)
    (links["model"] / "vocab.txt").write_text("of an older model")
    env = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_MIXED_PRECISION": "bf16"}
    more = ("--data-dir", small_data, "--max_steps", 1, "--learning-rate", "2e-3")
    result = succeeded(run_main("train.py", *QUICK, *more, cwd=tmp_path, env=env))
    for said in (
        "║ NO GPU: training runs on the CPU.",
        "device: cpu",
        "precision: bf16",
        "effective batch 32",
    ):
        assert said in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["steps"] == 1
    settings = training_log(tmp_path)["settings"]
    assert (settings["max_length"], settings["learning_rate"], settings["bf16"]) == (64, 2e-3, True)
    # the old model is replaced as a whole
    assert all((tmp_path / name).is_symlink() for name in links)
    assert (links["model"] / "model.safetensors").is_file() and not (links["model"] / "vocab.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "env", "fragment"),
    [
        ("--require-gpu", {"CUDA_VISIBLE_DEVICES": ""}, "NVIDIA container toolkit"),
        ("--seed 1", {"WORLD_SIZE": "4"}, "WORLD_SIZE=4"),
        ("--model_name_or_path ./no-such-model", {}, "./no-such-model cannot be loaded"),
        ("--output_dir notes", {}, "holds letter.txt, not a model file"),
        ("--output_dir letter/model", {}, "cannot write"),
        ("--results-dir letter", {}, "cannot write letter"),
        ("--results-dir out/results --output_dir out", {}, "out/results lies in --output_dir out"),
        ("--output_dir taken", {}, "cannot write taken-checkpoints"),
        ("--output_dir /", {}, "--output_dir / holds"),
        ("--resume", {}, "no complete checkpoint in model-checkpoints"),
        ("--validation-per-genre 40", {}, "leaves children no training reviews"),
        ("--source elsewhere", {}, "was made from sample"),
    ],
)
def test_what_cannot_work_gets_one_line(
    tmp_path: Path, small_data: Path, arguments: str, env: dict[str, str], fragment: str
) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("notes/letter.txt", "letter", "taken-checkpoints"):
        (tmp_path / name).write_text("dear reader")
    before = sorted(tmp_path.rglob("*"))
    words = (*QUICK, "--data-dir", small_data, *arguments.split())
    result = run_main("train.py", *words, cwd=tmp_path, env={"HF_HUB_OFFLINE": "1"} | env)
    assert_one_line_error(result, fragment)
    assert not result.stdout
    assert [path for path in sorted(tmp_path.rglob("*")) if "hf" not in path.parts] == before


def test_data_is_made_if_missing_and_refused_if_damaged_or_in_use(tmp_path: Path, small_data: Path) -> None:
    shutil.copytree(small_data, tmp_path / "data")
    with (tmp_path / "data" / "train.parquet").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    result = run_main("train.py", *QUICK, cwd=tmp_path)
    assert_one_line_error(result, "train.parquet is not the file its manifest describes", "data_loader.py")
    shutil.rmtree(tmp_path / "data")
    (tmp_path / "model-checkpoints").mkdir()
    with FileLock(tmp_path / "model-checkpoints" / LOCK):
        result = run_main("train.py", *QUICK, cwd=tmp_path)
    assert_one_line_error(result, "another run is writing to model-checkpoints")
    assert not (tmp_path / "data").exists()
    result = run_main("train.py", *QUICK, "--source", "nowhere", cwd=tmp_path)
    assert "data holds no data: making it from nowhere" in result.stderr
    assert_one_line_error(result, "nowhere", "No such file")


def test_the_command_line_is_parsed_before_the_slow_imports() -> None:
    code = "import sys, train; train.parse('', []); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=helpers.ROOT).returncode == 0


def test_real_reviews_and_a_pretrained_checkpoint_train(tmp_path: Path, real: Path) -> None:
    data = ("--genres", "children,comics_graphic", "--head", 60, "--per-genre", 60, "--train-per-genre", 40)
    succeeded(run_main("data_loader.py", "--source", real / "goodreads", *data, cwd=tmp_path))
    checkpoint = real / "models" / "distil-mini"
    arguments = ("--model_name_or_path", checkpoint, "--max_length", 64, "--learning_rate", "2e-4")
    succeeded(run_main("train.py", *arguments, "--num_train_epochs", 3, cwd=tmp_path))
    result = succeeded(run_main("evaluate_model.py", cwd=tmp_path))
    assert json.loads(result.stdout.splitlines()[-1])["accuracy"] > 0.6  # chance is 0.5

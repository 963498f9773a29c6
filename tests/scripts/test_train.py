"""train.py, run as a user runs it."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from goodreads.common.files import LOCK
from tests.helpers import (
    QUICK,
    ROOT,
    assert_one_line_error,
    command,
    environment,
    run_main,
    succeeded,
    temporary_files,
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def training_log(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "results" / "training_log.json").read_text())
    return document


def test_a_run_leaves_a_publishable_model_and_a_complete_log(trained: Path, small_data: Path) -> None:
    names = {path.name for path in (trained / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    config = json.loads((trained / "model" / "config.json").read_text())
    labels = json.loads((small_data / "manifest.json").read_text())["labels"]
    assert [config["id2label"][str(i)] for i in range(8)] == labels == sorted(labels)
    assert config["label2id"] == {name: i for i, name in enumerate(labels)}
    assert not (trained / "model-checkpoints").exists()
    assert not temporary_files(trained)
    assert os.access(trained / "model" / "model.safetensors", os.R_OK)

    log = training_log(trained)
    assert log["steps"] == 20
    assert [row["epoch"] for row in log["epochs"]] == [1, 2]
    assert {"train_loss", "test_loss", "test_accuracy", "test_f1_weighted"} <= log["epochs"][0].keys()
    assert [(row["step"], round(row["epoch"], 6)) for row in log["losses"]] == [
        (step, step / 10) for step in range(1, 21)
    ]
    assert log["losses"][0].keys() == {"step", "epoch", "loss", "learning_rate"}
    assert log["saved_epoch"] == 2
    assert log["data"]["manifest_sha256"] == sha256(small_data / "manifest.json")
    assert log["model"]["files_sha256"]["model.safetensors"] == sha256(
        trained / "model" / "model.safetensors"
    )
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
    for line, number in (("step 8/20", signal.SIGKILL), ("step 13/20", signal.SIGTERM)):
        words = command("train.py", *arguments, *["--resume"] * (number == signal.SIGTERM))
        pipe = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
        with subprocess.Popen(words, cwd=tmp_path, env=environment(tmp_path), text=True, **pipe) as process:  # type: ignore[call-overload]
            for text in process.stderr:
                if line in text:
                    process.send_signal(number)
                    break
            log = process.stderr.read()
        assert process.returncode in (-number, 128 + number), log[-2000:]
    assert "go on with --resume" in log
    succeeded(run_main("train.py", *arguments, "--resume", cwd=tmp_path))
    assert sha256(tmp_path / "model" / "model.safetensors") == sha256(trained / "model" / "model.safetensors")
    resumed, whole = training_log(tmp_path), training_log(trained)
    assert resumed["resumed_from"] in ("checkpoint-13", "checkpoint-14")
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


def test_what_a_run_uses_is_said_at_its_start(tmp_path: Path, small_data: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model_name_or_path: scratch\nmax_length: 32\nmax_steps: 1\nlearning_rate: 5.0e-4\n")
    arguments = ("--recipe", recipe, "--data-dir", small_data, "--learning-rate", "2e-3")
    links = {name: tmp_path / f"disk-{name}" for name in ("model", "results")}
    for name, folder in links.items():
        folder.mkdir()
        (tmp_path / name).symlink_to(folder)
    (links["model"] / "vocab.txt").write_text("of an older model")
    env = {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_MIXED_PRECISION": "bf16"}
    result = succeeded(run_main("train.py", *arguments, cwd=tmp_path, env=env))
    for line in (
        "║ NO GPU: training runs on the CPU.",
        "device: cpu",
        "precision: bf16",
        "effective batch 16 = 1 device(s)",
    ):
        assert line in result.stderr
    last = json.loads(result.stdout.splitlines()[-1])
    assert (last["model"], last["steps"]) == ("model", 1)
    log = training_log(tmp_path)
    settings = log["settings"]
    assert (settings["max_length"], settings["learning_rate"], settings["max_steps"]) == (32, 2e-3, 1)
    assert settings["bf16"]
    # links stay, and the old model is replaced as a whole
    assert all((tmp_path / name).is_symlink() for name in links)
    assert not (links["model"] / "vocab.txt").exists()
    assert (links["model"] / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("arguments", "env", "fragments"),
    [
        (("--require-gpu",), {"CUDA_VISIBLE_DEVICES": ""}, ("--require-gpu", "NVIDIA container toolkit")),
        ((), {"WORLD_SIZE": "4"}, ("WORLD_SIZE=4", "torchrun")),
        (("--model_name_or_path", "./no-such-model"), {}, ("./no-such-model cannot be loaded",)),
        (("--model_name_or_path", "custom"), {}, ("custom",)),
        (("--output_dir", "notes"), {}, ("holds letter.txt, not a model file",)),
        (("--output_dir", "letter/model"), {}, ("cannot write",)),
        (("--results-dir", "letter"), {}, ("cannot write letter",)),
        (
            ("--results-dir", "out/results", "--output_dir", "out"),
            {},
            ("out/results lies in --output_dir out",),
        ),
        (("--output_dir", "taken"), {}, ("cannot write taken-checkpoints",)),
        (("--output_dir", "/"), {}, ("--output_dir / holds",)),
        (("--validation-per-genre", 40), {}, ("leaves children no training reviews",)),
        (("--source", "elsewhere"), {}, ("--source elsewhere", "was made from sample")),
    ],
)
def test_what_cannot_work_gets_one_line(
    tmp_path: Path,
    small_data: Path,
    arguments: tuple[Any, ...],
    env: dict[str, str],
    fragments: tuple[str, ...],
) -> None:
    (tmp_path / "notes").mkdir()
    for name in ("notes/letter.txt", "letter", "taken-checkpoints"):
        (tmp_path / name).write_text("dear reader")
    custom = {"model_type": "distilbert", "auto_map": {"AutoModelForSequenceClassification": "code.Model"}}
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom" / "config.json").write_text(json.dumps(custom | {"model_type": "unheard-of"}))
    before = sorted(tmp_path.rglob("*"))
    offline = {"HF_HUB_OFFLINE": "1"} | env
    result = run_main("train.py", *QUICK, "--data-dir", small_data, *arguments, cwd=tmp_path, env=offline)
    assert_one_line_error(result, *fragments)
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


def test_help_comes_before_the_slow_imports() -> None:
    code = "import sys, train; train.parse('', []); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_real_reviews_and_a_pretrained_checkpoint_train(tmp_path: Path, real: Path) -> None:
    data = ("--genres", "children,comics_graphic", "--head", 60, "--per-genre", 60, "--train-per-genre", 40)
    succeeded(run_main("data_loader.py", "--source", real / "goodreads", *data, cwd=tmp_path))
    checkpoint = real / "models" / "distil-mini"
    arguments = ("--model_name_or_path", checkpoint, "--max_length", 64, "--learning_rate", "2e-4")
    succeeded(run_main("train.py", *arguments, "--num_train_epochs", 3, cwd=tmp_path))
    result = succeeded(run_main("evaluate_model.py", cwd=tmp_path))
    assert json.loads(result.stdout.splitlines()[-1])["accuracy"] > 0.6  # chance is 0.5

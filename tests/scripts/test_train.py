"""train.py, run as a user runs it."""

import hashlib
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import QUICK
from tests.helpers import (
    assert_one_line_error,
    command,
    environment,
    run_script,
    succeeded,
    temporary_files,
)


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model" / "model.safetensors").read_bytes()).hexdigest()


def training_log(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "results" / "training_log.json").read_text())
    return document


def start(folder: Path, *arguments: Any) -> subprocess.Popen[str]:
    """train.py in a process of its own, its log on a pipe."""
    return subprocess.Popen(
        command("train.py", *arguments),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(folder: Path, arguments: tuple[Any, ...], line: str, signum: int) -> tuple[int, str]:
    """Start train.py and signal it once ``line`` is in its log; its exit code and log."""
    with start(folder, *arguments) as process:
        assert process.stderr
        log = ""
        for text in process.stderr:
            log += text
            if line in text:
                process.send_signal(signum)
                break
        else:
            raise AssertionError(f"{line!r} never appeared:\n{log[-3000:]}")
        log += process.stderr.read()
        return process.wait(timeout=120), log


def test_a_run_leaves_a_publishable_model_and_a_complete_log(trained: Path, small_data: Path) -> None:
    names = {path.name for path in (trained / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    config = json.loads((trained / "model" / "config.json").read_text())
    labels = json.loads((small_data / "manifest.json").read_text())["labels"]
    assert [config["id2label"][str(i)] for i in range(8)] == labels == sorted(labels)
    assert config["label2id"] == {name: i for i, name in enumerate(labels)}
    assert not (trained / "model-checkpoints").exists()
    assert not temporary_files(trained)

    log = training_log(trained)
    assert log["steps"] == 20
    assert [row["epoch"] for row in log["epochs"]] == [1, 2]
    assert {"train_loss", "test_loss", "test_accuracy", "test_f1_weighted"} <= log["epochs"][0].keys()
    manifest = (small_data / "manifest.json").read_bytes()
    assert log["data"]["manifest_sha256"] == hashlib.sha256(manifest).hexdigest()
    assert log["model"]["files_sha256"]["model.safetensors"] == weights(trained)
    assert log["data"]["padding_share"] < 0.25  # 320 reviews leave little to sort
    assert {"data", "model", "tokenize", "train", "save", "evaluate_epochs"} <= log["seconds"].keys()
    assert log["throughput"]["tokens_per_second"] > log["throughput"]["reviews_per_second"] > 0
    assert log["batch"] == {
        "effective": 32,
        "devices": 1,
        "per_device": 32,
        "accumulation": 1,
        "tokens": 0,
    }


def test_the_last_test_record_is_what_evaluate_model_finds(trained: Path) -> None:
    last = training_log(trained)["epochs"][-1]
    result = json.loads((trained / "results" / "eval_results_local.json").read_text())["metrics"]
    assert last["test_loss"] == pytest.approx(result["loss"]["value"], abs=1e-4)
    assert last["test_accuracy"] == pytest.approx(result["accuracy"]["value"], abs=1e-9)


@pytest.mark.parametrize(
    ("line", "signum"),
    [("step 7/20", signal.SIGTERM), ("step 9/20: loss", signal.SIGINT), ("test loss", signal.SIGTERM)],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, trained: Path, small_data: Path, line: str, signum: signal.Signals
) -> None:
    arguments = (*QUICK, "--data-dir", small_data)
    code, log = interrupt(tmp_path, arguments, line, signum)
    assert code == 128 + signum, log[-2000:]
    assert "go on with --resume" in log
    assert not (tmp_path / "model").exists()
    succeeded(run_script("train.py", *arguments, "--resume", cwd=tmp_path))
    assert weights(tmp_path) == weights(trained)
    resumed, whole = training_log(tmp_path), training_log(trained)
    assert resumed["resumed_from"].startswith("checkpoint-")
    for mine, theirs in zip(resumed["epochs"], whole["epochs"], strict=True):
        assert mine == pytest.approx(theirs)


def test_killed_at_random_moments_nothing_damaged_is_trusted(
    tmp_path: Path, trained: Path, small_data: Path
) -> None:
    rng = random.Random(7)
    arguments: tuple[Any, ...] = (*QUICK, "--data-dir", small_data, "--save_strategy", "steps")
    arguments += ("--save_steps", 2)
    for _ in range(5):
        resumable = any((tmp_path / "model-checkpoints").glob("checkpoint-*/complete.json"))
        with start(tmp_path, *arguments, *(["--resume"] if resumable else [])) as process:
            assert process.stderr
            for text in process.stderr:  # the interesting moments begin with the first step
                if "loss" in text:
                    break
            time.sleep(rng.uniform(0, 1.5))
            process.kill()
        if (tmp_path / "model").exists():
            assert weights(tmp_path) == weights(trained)
    resume = ["--resume"] if any((tmp_path / "model-checkpoints").glob("*/complete.json")) else []
    succeeded(run_script("train.py", *arguments, *resume, cwd=tmp_path))
    assert weights(tmp_path) == weights(trained)
    assert not temporary_files(tmp_path)


def test_an_incomplete_checkpoint_is_passed_over(tmp_path: Path, trained: Path, small_data: Path) -> None:
    arguments = (*QUICK, "--data-dir", small_data)
    interrupt(tmp_path, arguments, "step 14/20", signal.SIGTERM)
    checkpoints = sorted((tmp_path / "model-checkpoints").iterdir(), key=lambda p: int(p.name[11:]))
    assert len(checkpoints) == 2
    (checkpoints[-1] / "complete.json").unlink()
    result = succeeded(run_script("train.py", *arguments, "--resume", cwd=tmp_path))
    assert f"{checkpoints[-1].name} is incomplete and passed over" in result.stderr
    assert weights(tmp_path) == weights(trained)


def test_resume_refuses_another_run_and_an_empty_folder(tmp_path: Path, small_data: Path) -> None:
    arguments = (*QUICK, "--data-dir", small_data)
    result = run_script("train.py", *arguments, "--resume", cwd=tmp_path)
    assert_one_line_error(result, "no complete checkpoint", "run without --resume")
    interrupt(tmp_path, arguments, "step 3/20", signal.SIGTERM)
    result = run_script("train.py", *arguments, "--resume", "--learning_rate", "0.5", cwd=tmp_path)
    assert_one_line_error(result, "is of another run", "learning_rate was 0.001, is 0.5")


def test_the_same_batch_in_parts_or_over_processes_gives_the_same_losses(
    tmp_path: Path, small_data: Path
) -> None:
    shared = (*QUICK, "--data-dir", small_data, "--effective_batch_size", 32)
    curves = {}
    for name, processes, part in (("whole", 1, 32), ("parts", 1, 8), ("processes", 2, 16)):
        folder = tmp_path / name
        folder.mkdir()
        train = command("train.py", *shared, "--per_device_train_batch_size", part)
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
            train = [train[0], *launcher, *train[1:]]
        result = subprocess.run(
            train,
            cwd=folder,
            env=environment(folder, OMP_NUM_THREADS="1"),
            capture_output=True,
            text=True,
            timeout=200,
        )
        succeeded(result)
        steps = 32 // part // processes
        plan = f"effective batch 32 = {processes} device(s) x {part} reviews x {steps} accumulation step(s)"
        assert plan in result.stderr
        assert training_log(folder)["steps"] == 20
        curves[name] = [row["test_loss"] for row in training_log(folder)["epochs"]]
    assert curves["parts"] == pytest.approx(curves["whole"], rel=1e-4)
    assert curves["processes"] == pytest.approx(curves["whole"], rel=1e-4)


def test_validation_selects_the_checkpoint_and_stops_early(tmp_path: Path, small_data: Path) -> None:
    arguments = ("--recipe", "sample", "--max_length", 32, "--data-dir", small_data)
    # a rate that overshoots: validation soon gets worse
    arguments += ("--num_train_epochs", 12, "--learning_rate", 0.003, "--warmup_steps", 0)
    arguments += ("--validation-per-genre", 8, "--early_stopping_patience", 1)
    succeeded(run_script("train.py", *arguments, cwd=tmp_path))
    log = training_log(tmp_path)
    losses = [row["validation_loss"] for row in log["epochs"]]
    assert len(losses) < 12
    assert losses[-1] >= min(losses[:-1])
    best = log["epochs"][losses.index(min(losses))]
    assert log["best_checkpoint"] == f"checkpoint-{best['step']}"
    assert log["data"]["train_reviews"] == 256
    result = succeeded(run_script("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path))
    assert json.loads(result.stdout.splitlines()[-1])["accuracy"] == round(best["test_accuracy"], 4)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--load_best_model_at_end", "True"),
        ("--metric_for_best_model", "eval_test_accuracy"),
        ("--validation-per-genre", 5, "--metric_for_best_model", "eval_test_loss"),
        ("--save_strategy", "best"),
    ],
)
def test_the_test_split_never_selects_a_model(
    tmp_path: Path, small_data: Path, arguments: tuple[Any, ...]
) -> None:
    result = run_script("train.py", *QUICK, "--data-dir", small_data, *arguments, cwd=tmp_path)
    assert_one_line_error(result, "the test split never selects a model")


def test_no_gpu_is_said_in_a_box_with_a_time_or_is_an_error(tmp_path: Path, small_data: Path) -> None:
    hidden = {"CUDA_VISIBLE_DEVICES": ""}
    arguments = (*QUICK, "--data-dir", small_data)
    result = run_script("train.py", *arguments, "--require-gpu", cwd=tmp_path, env=hidden)
    assert_one_line_error(result, "--require-gpu", "--gpus all", "NVIDIA container toolkit")
    result = succeeded(run_script("train.py", *arguments, "--max_steps", 1, cwd=tmp_path, env=hidden))
    assert "║ NO GPU: training runs on the CPU." in result.stderr
    assert "║ Estimated training time: " in result.stderr
    for line in (
        "device: cpu",
        "precision: float32 (",
        "attention: sdpa (",
        "effective batch 32 = 1 device(s)",
    ):
        assert line in result.stderr


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (("--recipe", "nothing"), ("--recipe nothing", "default, report, sample")),
        (("--learning_rat", "1"), ("--learning_rat", "--help-all")),
        (("--num_train_epochs", "many"), ("invalid float value: 'many'",)),
        (("--push_to_hub", "True"), ("push_to_hub.py",)),
        (("--hub_token", "secret"), ("never goes on a command line",)),
        (("--per_device_eval_batch_size", 5), ("fit a number of tokens",)),
        (("--model_name_or_path", "./no-such-model"), ("./no-such-model cannot be loaded",)),
        (("--report_to", "trackio"), ("--report_to trackio", "trackio")),
        (("--output_dir", "notes"), ("holds letter.txt, which is no model file",)),
        (("--validation-per-genre", 40), ("leaves children no training reviews",)),
    ],
)
def test_bad_options_get_one_line(
    tmp_path: Path, small_data: Path, arguments: tuple[Any, ...], fragments: tuple[str, ...]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "letter.txt").write_text("dear reader")
    offline = {"HF_HUB_OFFLINE": "1"}
    result = run_script("train.py", *QUICK, "--data-dir", small_data, *arguments, cwd=tmp_path, env=offline)
    assert_one_line_error(result, *fragments)
    assert "secret" not in result.stderr + result.stdout
    assert not (tmp_path / "model").exists()


def test_damaged_data_is_refused_and_missing_data_is_made(tmp_path: Path, small_data: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for path in small_data.iterdir():
        (data / path.name).write_bytes(path.read_bytes())
    with (data / "train.parquet").open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    result = run_script("train.py", *QUICK, cwd=tmp_path)
    assert_one_line_error(result, "train.parquet is not the file its manifest describes", "data_loader.py")

    made = tmp_path / "made"
    made.mkdir()
    result = run_script("train.py", *QUICK, "--source", made / "nowhere", cwd=made)
    assert "data holds no data: making it from" in result.stderr
    assert_one_line_error(result, "nowhere/goodreads_reviews_", "No such file")


def test_a_recipe_file_is_read_and_the_command_line_wins(tmp_path: Path, small_data: Path) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model_name_or_path: scratch\nmax_length: 32\nmax_steps: 1\nlearning_rate: 5.0e-4\n")
    arguments = ("--recipe", recipe, "--data-dir", small_data, "--learning-rate", "2e-3")
    succeeded(run_script("train.py", *arguments, cwd=tmp_path))
    settings = training_log(tmp_path)["settings"]
    assert (settings["max_length"], settings["learning_rate"], settings["max_steps"]) == (32, 2e-3, 1)


def test_a_new_run_replaces_the_model_as_a_whole(tmp_path: Path, small_data: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "vocab.txt").write_text("of an older model")
    succeeded(run_script("train.py", *QUICK, "--max_steps", 1, "--data-dir", small_data, cwd=tmp_path))
    assert not (model / "vocab.txt").exists()
    assert os.access(model / "model.safetensors", os.R_OK)


def test_real_reviews_and_a_pretrained_checkpoint_train(tmp_path: Path, shared: Path) -> None:
    data = ("--genres", "children,comics_graphic", "--head", 60, "--per-genre", 60, "--train-per-genre", 40)
    succeeded(run_script("data_loader.py", "--source", shared / "goodreads", *data, cwd=tmp_path))
    checkpoint = shared / "models" / "distil-mini"
    arguments = ("--model_name_or_path", checkpoint, "--max_length", 64, "--learning_rate", "2e-4")
    succeeded(run_script("train.py", *arguments, "--num_train_epochs", 3, cwd=tmp_path))
    result = succeeded(run_script("evaluate_model.py", cwd=tmp_path))
    assert json.loads(result.stdout.splitlines()[-1])["accuracy"] > 0.6  # chance is 0.5

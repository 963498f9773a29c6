"""The same training on any number of processes and with any memory: real runs of train.py."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import ROOT, environment, run_script, succeeded

# plain gradient descent: the weights are the sum of the gradients, so equal weights are equal gradients
RUN = ("--recipe", "sample", "--num_train_epochs", 2, "--max_length", 48, "--effective_batch_size", 16)
RUN += ("--optim", "sgd", "--learning_rate", 0.5, "--logging_steps", 1, "--warmup_steps", 0)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Options of a run on 50 training and 15 test reviews, from the same weights, without dropout.

    The last batch of 16 has 2 reviews: of four processes two have nothing to do.
    """
    folder = tmp_path_factory.mktemp("start")
    counts = ("--head", 60, "--per-genre", 13, "--train-per-genre", 10)
    genres = ("--genres", "children,poetry,romance,young_adult,comics_graphic")
    succeeded(run_script("data_loader.py", "--source", "sample", *genres, *counts, cwd=folder))
    succeeded(run_script("train.py", *RUN, "--max_steps", 1, cwd=folder))
    model, data = folder / "model", folder / "data"
    config = json.loads((model / "config.json").read_text())
    rates = dict.fromkeys(("dropout", "attention_dropout", "seq_classif_dropout"), 0.0)
    (model / "config.json").write_text(json.dumps(config | rates))
    return (*RUN, "--per_device_train_batch_size", 16, "--model_name_or_path", model, "--data-dir", data)


def launch(
    folder: Path, launcher: list[str], arguments: tuple[Any, ...], script: Path = ROOT / "train.py"
) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    command = [sys.executable, *launcher, script, *arguments]
    return subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment(folder, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=280,
    )


def torchrun(processes: int) -> list[str]:
    return ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]


Run = tuple[dict[str, Any], dict[str, Any], list[float]]


def outcome(folder: Path, result: subprocess.CompletedProcess[str]) -> Run:
    """The log, the weights and the loss of each step."""
    assert result.returncode == 0, result.stderr[-8000:]  # a launcher adds much of its own
    log = json.loads((folder / "results" / "training_log.json").read_text())
    losses = [float(text) for text in re.findall(r": loss ([\d.]+),", result.stderr)]
    return log, load_file(folder / "model" / "model.safetensors"), losses


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, start: tuple[Any, ...]) -> Run:
    folder = tmp_path_factory.mktemp("one") / "run"
    return outcome(folder, launch(folder, [], start))


def assert_same(found: Run, expected: Run) -> None:
    (log, weights, losses), (log_0, weights_0, losses_0) = found, expected
    assert log["steps"] == log_0["steps"] == 8  # 4 an epoch: none dropped, none added
    assert len(losses) == len(losses_0) == 8
    assert losses == pytest.approx(losses_0, abs=2e-4)  # as printed
    for mine, theirs in zip(log["epochs"], log_0["epochs"], strict=True):
        assert mine.keys() == theirs.keys()
        assert mine == pytest.approx(theirs, rel=1e-5)
    for name, weight in weights_0.items():
        # a key's bias gets nothing but rounding, since softmax takes away what all scores share
        assert (weights[name] - weight).norm() <= 1e-5 * weight.norm() + 1e-9, name


@pytest.mark.parametrize(
    ("launcher", "devices"),
    [
        (torchrun(2), 2),
        (torchrun(4), 4),
        # which starts several processes without GPUs through MPI alone; with GPUs, as torchrun does
        ("-m accelerate.commands.launch --cpu --num_processes 1 --num_machines 1".split(), 1),
    ],
    ids=["torchrun-2", "torchrun-4", "accelerate-1"],
)
def test_processes_share_batches_that_do_not_divide(
    tmp_path: Path, start: tuple[Any, ...], alone: Run, launcher: list[str], devices: int
) -> None:
    found = outcome(tmp_path / "run", launch(tmp_path / "run", launcher, start))
    assert_same(found, alone)
    assert found[0]["batch"]["devices"] == devices


def test_processes_are_interrupted_together_and_resumed(tmp_path: Path, start: tuple[Any, ...]) -> None:
    arguments = (*start, "--num_train_epochs", 10, "--eval_strategy", "no", "--save_strategy", "no")
    command = [sys.executable, *torchrun(2), ROOT / "train.py", *arguments]
    process = subprocess.Popen(
        [str(word) for word in command],
        cwd=tmp_path,
        env=environment(tmp_path, OMP_NUM_THREADS="1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stderr
        for line in process.stderr:
            if "step 9/40" in line:
                process.send_signal(signal.SIGTERM)  # the launcher passes it on, not at once to all
                break
        log = process.stderr.read()
    assert process.returncode != 0
    assert "go on with --resume" in log, log[-3000:]
    (checkpoint,) = (tmp_path / "model-checkpoints").glob("checkpoint-*/complete.json")
    assert 9 <= int(checkpoint.parent.name.rpartition("-")[2]) < 40
    once = launch(tmp_path / "once", torchrun(2), arguments)
    again = launch(
        tmp_path / "again", torchrun(2), (*arguments, "--resume", "--output_dir", tmp_path / "model")
    )
    succeeded(once)
    succeeded(again)
    mine, theirs = (load_file(f / "model" / "model.safetensors") for f in (tmp_path, tmp_path / "once"))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)

"""The same training on any number of processes and with any memory: real runs of train.py."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import ROOT, assert_one_line_error, environment, run_script, succeeded

# plain gradient descent: the weights are the sum of the gradients, so equal weights are equal gradients
RUN = ("--recipe", "sample", "--num_train_epochs", 2, "--max_length", 48, "--effective_batch_size", 16)
RUN += ("--optim", "sgd", "--learning_rate", 0.5, "--logging_steps", 1, "--warmup_steps", 0)

LIMITED = """
import os, runpy, sys
import torch
from transformers import DistilBertForSequenceClassification as Model

forward, limit, passes = Model.forward, {limit}, 0

def limited(self, input_ids=None, **inputs):
    global passes
    passes += self.training
    here = int(os.environ.get("RANK", 0)) == {rank}
    if here and self.training and passes > {after} and input_ids.numel() > limit:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    return forward(self, input_ids=input_ids, **inputs)

Model.forward = limited
sys.argv[0] = "train.py"
sys.path.insert(0, {root!r})
runpy.run_path({root!r} + "/train.py", run_name="__main__")
"""


def limited(path: Path, limit: int, rank: int = 0, after: int = 0) -> Path:
    """train.py with memory for ``limit`` tokens on one process, from the pass ``after`` that many on."""
    path.write_text(LIMITED.format(limit=limit, rank=rank, after=after, root=str(ROOT)))
    return path


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """Options of a run on 50 training and 15 test reviews, from the same weights, with dropout.

    The last batch of 16 has 2 reviews: of four processes two have nothing to do.
    """
    folder = tmp_path_factory.mktemp("start")
    counts = ("--head", 60, "--per-genre", 13, "--train-per-genre", 10)
    genres = ("--genres", "children,poetry,romance,young_adult,comics_graphic")
    succeeded(run_script("data_loader.py", "--source", "sample", *genres, *counts, cwd=folder))
    succeeded(run_script("train.py", *RUN, "--max_steps", 1, cwd=folder))
    model, data = folder / "model", folder / "data"
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


def test_out_of_memory_is_answered_with_smaller_parts_of_the_same_batch(
    tmp_path: Path, start: tuple[Any, ...], alone: Run
) -> None:
    script = limited(tmp_path / "limited.py", 150)
    result = launch(tmp_path / "run", [], start, script)
    assert_same(outcome(tmp_path / "run", result), alone)
    assert "out of memory with 16 reviews of 48 tokens: from now on at most 384 tokens" in result.stderr
    assert "the effective batch stays 16 reviews" in result.stderr


def test_processes_agree_on_what_fits_into_the_smallest_memory(
    tmp_path: Path, start: tuple[Any, ...], alone: Run
) -> None:
    script = limited(tmp_path / "limited.py", 150, rank=1)
    result = launch(tmp_path / "run", torchrun(2), start, script)
    assert_same(outcome(tmp_path / "run", result), alone)
    assert "out of memory with 8 reviews of 48 tokens" in result.stderr


def test_out_of_memory_once_others_wait_for_the_gradients_is_an_error_that_says_what_to_do(
    tmp_path: Path, start: tuple[Any, ...]
) -> None:
    script = limited(tmp_path / "limited.py", 150, rank=1, after=3)
    result = launch(tmp_path / "run", torchrun(2), start, script)
    assert result.returncode != 0
    (line,) = (line for line in result.stderr.splitlines() if "train.py: error: " in line)
    assert "out of memory with 8 reviews of 48 tokens; run again with" in line
    assert line.endswith("--effective_batch_size 16 --per_device_train_batch_size 4")
    assert not (tmp_path / "run" / "model").exists()


def test_out_of_memory_before_that_is_answered_with_smaller_parts_on_one_process_alone(
    tmp_path: Path, start: tuple[Any, ...], alone: Run
) -> None:
    script = limited(tmp_path / "limited.py", 150, rank=1, after=3)
    result = launch(tmp_path / "run", torchrun(2), (*start, "--per_device_train_batch_size", 4), script)
    assert_same(outcome(tmp_path / "run", result), alone)
    assert "out of memory with 4 reviews of 46 tokens: from now on at most 92 tokens" in result.stderr


def test_out_of_memory_with_a_single_review_is_an_error(tmp_path: Path, start: tuple[Any, ...]) -> None:
    script = limited(tmp_path / "limited.py", 20)
    result = launch(tmp_path / "run", [], start, script)
    assert_one_line_error(result, "out of memory with one review of 48 tokens", "--max_length")
    assert not (tmp_path / "run" / "model").exists()


def test_other_errors_are_not_taken_for_a_lack_of_memory(tmp_path: Path) -> None:
    """A step that fails for another reason fails at once, with its own message."""
    from goodreads.training.trainer import GenreTrainer

    split: Callable[..., None] = GenreTrainer._split_further
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        split(object(), RuntimeError("mat1 and mat2 shapes cannot be multiplied"))

"""Signals, checkpoints and their resumption, in runs of train.py within this process."""

import errno
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState

from goodreads.training.checkpoints import Checkpoints
from goodreads.training.training_log import LogLines
from tests.helpers import QUICK, Result, assert_one_line_error, run_main, succeeded, temporary_files


def weights(folder: Path) -> bytes:
    return (folder / "model" / "model.safetensors").read_bytes()


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "model-checkpoints").glob("checkpoint-*"))


def train(folder: Path, data: Path, *more: Any) -> Result:
    return run_main("train.py", *QUICK, "--data-dir", data, *more, cwd=folder)


def interrupt(folder: Path, data: Path, moment: tuple[int, str], number: int) -> Result:
    """Train until a line of the log, by its step and a key of it, and send a signal to this process then."""
    on_log = LogLines.on_log

    def log_and_stop(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        on_log(self, args, state, control, **kwargs)
        if state.global_step == moment[0] and moment[1] in kwargs["logs"]:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LogLines, "on_log", log_and_stop)
        return train(folder, data)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Path:
    """A folder with checkpoints 10 and 14 of a run of 20 steps; not to be changed."""
    folder = tmp_path_factory.mktemp("stopped")
    interrupt(folder, small_data, (13, "loss"), signal.SIGTERM)
    assert kept(folder) == ["checkpoint-10", "checkpoint-14"]
    return folder


@pytest.mark.parametrize(
    ("moment", "number"),
    [((6, "loss"), signal.SIGTERM), ((9, "loss"), signal.SIGINT), ((10, "eval_test_loss"), signal.SIGTERM)],
    ids=["within the epoch", "in its last step", "in its evaluation"],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    tmp_path: Path, trained: Path, small_data: Path, moment: tuple[int, str], number: signal.Signals
) -> None:
    result = interrupt(tmp_path, small_data, moment, number)
    assert_one_line_error(result, "is saved; go on with --resume", code=128 + number)
    assert not (tmp_path / "model").exists()
    succeeded(train(tmp_path, small_data, "--resume", "--save_total_limit", 1, "--run_name", "again"))
    assert weights(tmp_path) == weights(trained)
    assert not (tmp_path / "model-checkpoints").exists()
    assert not temporary_files(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        "learning_rate=0.5", "label_smoothing_factor=0.1", "lr_scheduler_type=constant", "adam_beta2=0.99",
        "seed=1", "effective_batch_size=16", "max_length=32", "logging_steps=1", "save_strategy=no",
        "bf16=true", "num_train_epochs=3", "validation_per_genre=5", "model_name_or_path=other",
    ],
)  # fmt: skip
def test_what_may_decide_the_weights_must_agree(stopped: Path, small_data: Path, changed: str) -> None:
    result = train(stopped, small_data, "--resume", f"--{changed}")
    said = f"{changed.partition('=')[0]} was"
    assert_one_line_error(result, "checkpoint-14 is of another run", said, "--force")


def test_other_data_are_not_resumed_with(tmp_path: Path, stopped: Path) -> None:
    more = ("--source", "sample", "--head", 100, "--per-genre", 30, "--train-per-genre", 20)
    succeeded(run_main("data_loader.py", *more, cwd=tmp_path))
    result = train(stopped, tmp_path / "data", "--resume")
    assert_one_line_error(result, "of another run", "train_content_sha256 was")


@pytest.mark.parametrize("name", ["optimizer.pt", "complete.json"])
def test_a_damaged_checkpoint_is_passed_over_and_what_is_not_ours_stays(
    tmp_path: Path, stopped: Path, trained: Path, small_data: Path, name: str
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "model-checkpoints"
    os.truncate(folder / "checkpoint-14" / name, 0)  # as a kill while saving leaves it
    shutil.copytree(folder / "checkpoint-14", folder / "checkpoint-14-backup")
    (folder / "checkpoint-10" / "notes.txt").write_text("mine")
    result = succeeded(train(tmp_path, small_data, "--resume", "--save_total_limit", 1))
    assert "checkpoint-14 is incomplete or damaged and passed over" in result.stderr
    assert weights(tmp_path) == weights(trained)
    assert kept(tmp_path) == ["checkpoint-10", "checkpoint-14-backup"]
    assert [path.name for path in (folder / "checkpoint-10").iterdir()] == ["notes.txt"]


def test_an_interrupted_run_is_given_up_only_when_asked(
    tmp_path: Path, stopped: Path, trained: Path, small_data: Path
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    result = train(tmp_path, small_data)
    assert_one_line_error(result, "model-checkpoints/checkpoint-14", "--resume", "--force")
    assert kept(tmp_path) == ["checkpoint-10", "checkpoint-14"]
    succeeded(train(tmp_path, small_data, "--force"))
    assert weights(tmp_path) == weights(trained)


@pytest.mark.parametrize("option", ["--force", "--resume", "--resume=false"])
def test_a_strangers_checkpoint_is_never_overwritten(tmp_path: Path, small_data: Path, option: str) -> None:
    (tmp_path / "model-checkpoints" / "checkpoint-10").mkdir(parents=True)
    result = train(tmp_path, small_data, option)
    assert_one_line_error(result, "checkpoint-10 was not made by train.py")


def test_a_full_disk_while_saving_gets_one_line(
    tmp_path: Path, trained: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = torch.save

    def full(content: Any, path: Any) -> None:
        if "checkpoint-20" in str(path) and "optimizer" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(content, path)

    more = ("--save_strategy", "steps", "--save_steps", 4, "--save_total_limit", 2)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        result = train(tmp_path, small_data, *more)
    assert_one_line_error(result, "cannot write model-checkpoints/checkpoint-20: ", "No space", "--resume")
    assert kept(tmp_path) == ["checkpoint-12", "checkpoint-16", "checkpoint-20"]
    succeeded(train(tmp_path, small_data, *more, "--resume"))
    assert weights(tmp_path) == weights(trained)


def take_steps(rank: int, folder: Path) -> None:
    """One of two processes: it takes up to four steps, and process 1 gets a signal in the second."""
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    args: Any = SimpleNamespace(world_size=2, output_dir=folder, should_save=False)
    control, keeper = TrainerControl(), Checkpoints({}, 2)
    keeper.on_train_begin(args, TrainerState(), control)
    step = 0
    while step < 4 and not control.should_training_stop:
        step += 1
        if (rank, step) == (1, 2):
            os.kill(os.getpid(), signal.SIGTERM)
        keeper.on_step_end(args, TrainerState(epoch=step / 10, global_step=step), control)
    (folder / str(rank)).write_text(f"{step} {keeper.received} {control.should_save}")
    keeper.on_train_end(args, TrainerState(), control)
    torch.distributed.destroy_process_group()


def test_processes_stop_after_the_same_step(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(take_steps, (tmp_path,), nprocs=2, start_method="fork")
    assert [(tmp_path / str(rank)).read_text() for rank in (0, 1)] == ["2 15 True"] * 2

"""What listens to the Trainer: complete checkpoints, signals, the log, early stopping."""

import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from goodreads.common.errors import InputError
from goodreads.common.files import read_json, write_json
from goodreads.common.progress import log

COMPLETE = "complete.json"


class CompleteCheckpoint(TrainerCallback):
    """Writes complete.json last into each checkpoint: without it a checkpoint is not used.

    Args:
        fingerprint: what a checkpoint must agree with to be resumed.
    """

    def __init__(self, fingerprint: dict[str, Any]) -> None:
        self.fingerprint = fingerprint

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the file."""
        if args.should_save:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / COMPLETE, self.fingerprint)


class StopOnSignal(TrainerCallback):
    """SIGINT and SIGTERM: finish the step, save a checkpoint, stop. A second signal kills at once.

    At the last step of an epoch the epoch's evaluation comes first, so that the checkpoint has its record.
    Several processes stop after the same step: they ask each other after each, past the GPU, which would be
    waited for.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None  # by any process, as of the last step
        self._mine = 0
        self._group: Any = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the signals over."""
        if args.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the signals back."""
        self._group = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        self._mine = number
        log.warning(
            "%s: saving a checkpoint after this step; again to stop at once", signal.Signals(number).name
        )
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop, unless the epoch ends with this step."""
        number = torch.tensor(self._mine)
        if self._group is not None:
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group=self._group)
        self.received = int(number) or None
        if self.received and state.epoch != int(state.epoch):
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After a stop within the epoch, nothing more; at its regular end, evaluate, save and stop."""
        if self.received and state.epoch != int(state.epoch):
            control.should_evaluate = control.should_save = control.should_log = False
        elif self.received:
            control.should_save = control.should_training_stop = True


class LogEpochEnd(TrainerCallback):
    """Logs the loss at the end of each epoch, so that no logged mean spans two."""

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for the log."""
        control.should_log = True


class PlainLog(TrainerCallback):
    """One readable line per log entry, for runs without a terminal."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Print the entry on the main process."""
        if not state.is_world_process_zero:
            return
        place = f"epoch {state.epoch or 0:.2f}, step {state.global_step}/{state.max_steps}"
        if "loss" in logs:
            log.info("%s: loss %.4f, learning rate %.2e", place, logs["loss"], logs["learning_rate"])
        for split in ("validation", "test"):
            if f"eval_{split}_loss" in logs:
                loss, accuracy = logs[f"eval_{split}_loss"], logs[f"eval_{split}_accuracy"]
                log.info("%s: %s loss %.4f, accuracy %.4f", place, split, loss, accuracy)


class StopOnValidation(EarlyStoppingCallback):
    """Early stopping that looks at the validation split and is silent about the other."""

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any
    ) -> None:
        """Count only evaluations that have the deciding metric."""
        if args.metric_for_best_model in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)


def last_checkpoint(folder: Path, fingerprint: dict[str, Any]) -> Path:
    """The newest complete checkpoint below ``folder``; incomplete ones are named and passed over.

    Raises:
        InputError: there is none, or it belongs to a run with other settings.
    """
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    while found and not (found[-1] / COMPLETE).is_file():
        log.warning("%s is incomplete and passed over", found.pop())
    if not found:
        raise InputError(f"--resume: no complete checkpoint in {folder}; run without --resume")
    saved = read_json(found[-1] / COMPLETE, "a run without --resume")
    changed = [f"{k} was {saved.get(k)!r}, is {v!r}" for k, v in fingerprint.items() if saved.get(k) != v]
    if changed:
        raise InputError(f"--resume: {found[-1]} is of another run: {'; '.join(changed)}; drop --resume")
    return found[-1]


def discard_checkpoints(folder: Path) -> None:
    """Remove what an earlier run left in its checkpoint folder, saying so."""
    if folder.exists():
        log.info("removing the checkpoints in %s", folder)
        shutil.rmtree(folder)

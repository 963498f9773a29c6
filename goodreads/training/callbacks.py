"""Trainer callbacks: signals, checkpoints, the log, early stopping."""

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers import TrainerControl as Control
from transformers import TrainerState as State
from transformers import TrainingArguments as Args

from goodreads.common.errors import CheckFailed, InputError, Interrupted
from goodreads.common.progress import log
from goodreads.training import checkpoints

ONCE = ("--resume", "--force")  # options of this run alone


class StopOnSignal(TrainerCallback):
    """SIGINT and SIGTERM: finish the step, save a checkpoint, stop. A second signal kills at once.

    At the last step of an epoch the epoch's evaluation comes first, so that the checkpoint has its record.
    Several processes stop after the same step: they agree over a CPU (gloo) group after each, so that the GPU
    is not waited for.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None  # by any process, as of the last step
        self._own = 0
        self._group: Any = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_begin(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Take the signals over."""
        if args.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}

    def on_train_end(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Give the signals back."""
        self._group = None
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._own = number
        log.warning(
            "%s: saving a checkpoint after this step; again to stop at once", signal.Signals(number).name
        )
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def on_step_end(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Save and stop, unless the epoch ends with this step."""
        number = torch.tensor(self._own)
        if self._group is not None:
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group=self._group)
        self.received = int(number) or None
        if self.received and _within_epoch(state):
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """After a stop within the epoch, nothing more; at its regular end, evaluate, save and stop."""
        if self.received and _within_epoch(state):
            control.should_evaluate = control.should_save = control.should_log = False
        elif self.received:
            control.should_save = control.should_training_stop = True

    def raise_interrupted(self, state: State) -> None:
        """Raise Interrupted, with the command that continues the run, if a signal ended it before its end."""
        if self.received and state.global_step < state.max_steps:
            again = shlex.join(["python", "train.py", *(word for word in sys.argv[1:] if word not in ONCE)])
            saved = f"checkpoint-{state.global_step} saved"
            raise Interrupted(self.received, f"{saved}; go on with --resume: {again} --resume")


def _within_epoch(state: State) -> bool:
    return state.epoch is not None and state.epoch != int(state.epoch)


class Checkpoints(TrainerCallback):
    """Marks each checkpoint when it is begun and when it is whole, and removes older ones of this run.

    To be added last: it looks at what the other callbacks decided.

    Args:
        run: fingerprint of the run, see ``goodreads.training.checkpoints``.
        limit: checkpoints to keep; the best one is kept beside them.
    """

    def __init__(self, run: dict[str, Any], limit: int | None) -> None:
        self.run, self.limit = run, limit
        self.saving: Path | None = None  # the checkpoint that is being written

    def on_step_end(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Mark the checkpoint that the Trainer is going to write."""
        if control.should_save:
            self.saving = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            if args.should_save:
                self.saving.mkdir(parents=True, exist_ok=True)
                (self.saving / checkpoints.COMPLETE).write_bytes(b"")

    on_epoch_end = on_step_end

    def on_save(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Declare it whole, once every process has written its part."""
        if args.world_size > 1:
            torch.distributed.barrier()
        if args.should_save and self.saving:
            checkpoints.mark_complete(self.saving, self.run)
            best = Path(state.best_model_checkpoint or "").name
            for path in checkpoints.of_this_program(self.saving.parent)[: -self.limit if self.limit else 0]:
                if path.name != best:
                    checkpoints.remove(path)
        self.saving = None

    @contextmanager
    def guard(self, folder: Path) -> Iterator[None]:
        """Say what becomes of the checkpoints when training fails.

        Raises:
            InputError: a checkpoint could not be written.
            CheckFailed: training diverged; checkpoints from before it stay.
        """
        try:
            yield
        except CheckFailed as error:
            left = checkpoints.of_this_program(folder)
            after = f"; {left[-1]} is from before that, and --force removes it" if left else ""
            raise CheckFailed(f"{error}{after}") from error
        except Exception as error:
            if self.saving is None:
                raise
            checkpoints.remove(self.saving)
            raise InputError(
                f"cannot write {self.saving}: {error}; free space on the disk, then continue from the last "
                "checkpoint with --resume, or start anew"
            ) from error


class LogEpochEnd(TrainerCallback):
    """Logs the loss at the end of each epoch, so that no logged mean spans two."""

    def on_epoch_end(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Ask for the log."""
        control.should_log = True


class PlainLog(TrainerCallback):
    """One readable line per log entry, for runs without a terminal."""

    def on_log(self, args: Args, state: State, control: Control, **kwargs: Any) -> None:
        """Print the entry on the main process."""
        if not state.is_world_process_zero:
            return
        logs: dict[str, float] = kwargs["logs"]
        place = f"epoch {state.epoch or 0:.2f}, step {state.global_step}/{state.max_steps}"
        if "loss" in logs:
            log.info("%s: loss %.4f, learning rate %.2e", place, logs["loss"], logs["learning_rate"])
        for split in ("validation", "test"):
            if f"eval_{split}_loss" in logs:
                loss, accuracy = logs[f"eval_{split}_loss"], logs[f"eval_{split}_accuracy"]
                log.info("%s: %s loss %.4f, accuracy %.4f", place, split, loss, accuracy)


class StopOnValidation(EarlyStoppingCallback):
    """Early stopping that ignores the test split."""

    def on_evaluate(
        self, args: Args, state: State, control: Control, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Count only evaluations that have the deciding metric."""
        if args.metric_for_best_model in metrics:
            super().on_evaluate(args, state, control, metrics, **kwargs)

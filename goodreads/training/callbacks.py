"""Trainer callbacks: signals and the log."""

import signal
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Args

from goodreads.common.errors import Interrupted
from goodreads.common.progress import log

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOWN = ("loss", "learning_rate", "accuracy")


class StopOnSignal(TrainerCallback):
    """SIGINT and SIGTERM: finish the step, save a checkpoint, stop. A second signal kills at once.

    At the last step of an epoch the epoch's evaluation comes first, so that the checkpoint has its record.
    Several processes stop after the same step: they agree over a CPU (gloo) group after each, so that the GPU
    is not waited for.
    """

    def __init__(self) -> None:
        self.received = 0  # by any process, as of the last step
        self._own = 0
        self._group: Any = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Take the signals over."""
        if args.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def on_train_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._own = number
        log.warning("signal %d: saving a checkpoint after this step; again to stop at once", number)
        for each in SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def on_step_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Save and stop, unless the epoch ends with this step."""
        number = torch.tensor(self._own)
        if self._group is not None:
            torch.distributed.all_reduce(number, torch.distributed.ReduceOp.MAX, group=self._group)
        self.received = int(number)
        if self.received and _within_epoch(state):
            control.should_save = control.should_training_stop = True

    def on_epoch_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After a stop within the epoch, nothing more; at its regular end, evaluate, save and stop."""
        if self.received and _within_epoch(state):
            control.should_evaluate = control.should_save = control.should_log = False
        elif self.received:
            control.should_save = control.should_training_stop = True

    def raise_interrupted(self, state: TrainerState) -> None:
        """Raise Interrupted if a signal ended the run before its end."""
        if self.received and state.global_step < state.max_steps:
            saved = f"checkpoint-{state.global_step} is saved"
            raise Interrupted(self.received, f"{saved}; go on with --resume and the same options")


def _within_epoch(state: TrainerState) -> bool:
    return state.epoch is not None and state.epoch != int(state.epoch)


class LogLines(TrainerCallback):
    """One readable line per log entry; the end of each epoch is one, so that no logged mean spans two."""

    def on_epoch_end(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for the log."""
        control.should_log = True

    def on_log(self, args: Args, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Print losses, accuracies and the learning rate."""
        shown = {name: f"{value:.4g}" for name, value in kwargs["logs"].items() if name.endswith(SHOWN)}
        if "train_loss" not in shown:  # the mean of the run
            place = f"epoch {state.epoch or 0:.2f}, step {state.global_step}/{state.max_steps}"
            log.info("%s: %s", place, ", ".join(f"{name} {value}" for name, value in shown.items()))

"""What listens to the Trainer: the batch order's epoch, signals, the log, early stopping."""

import signal
from typing import Any

import torch
from transformers import EarlyStoppingCallback, TrainerCallback

from goodreads.common.progress import log
from goodreads.model.batching import LengthGroupedBatches


class BatchOrderCallback(TrainerCallback):
    """Tells the batch order which epoch it is, resumed or not."""

    def __init__(self, order: LengthGroupedBatches) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch, counted from 0."""
        self.order.epoch = int(state.epoch or 0)


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

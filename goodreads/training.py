"""What train.py adds to the Hugging Face Trainer.

The effective batch size is fixed and the loss is the mean over it, whatever the devices; batches come in
an order that depends on the seed and the epoch alone; a signal saves a checkpoint; a checkpoint counts
only once it is complete.
"""

import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from goodreads.cli import InputError, log
from goodreads.encoding import LengthGroupedOrder
from goodreads.files import read_json, write_json

COMPLETE = "complete.json"  # written last into a checkpoint: without it the checkpoint is not used


def mean_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Cross-entropy of a micro-batch as its part of the mean over the whole effective batch.

    Args:
        outputs: the model's, with ``logits`` of shape (b, classes).
        labels: label ids, shape (b,).
        num_items_in_batch: reviews in the effective batch over all devices and accumulation steps; None in
            evaluation, where the result is the micro-batch's own mean.

    Returns:
        A scalar. The Trainer's default divides by the number of accumulation steps instead, which weighs a
        short last micro-batch too high.
    """
    reduction = "mean" if num_items_in_batch is None else "sum"
    loss = torch.nn.functional.cross_entropy(outputs.logits.float(), labels, reduction=reduction)
    return loss if num_items_in_batch is None else loss / num_items_in_batch


class GenreTrainer(Trainer):
    """A Trainer with this pipeline's batch order, loss and complete-or-ignored checkpoints.

    Args:
        lengths: tokens of each training review.
        effective_batch_size: reviews per optimizer step.
        fingerprint: what a checkpoint must agree with to be resumed.
    """

    def __init__(
        self, *, lengths: Sequence[int], effective_batch_size: int, fingerprint: dict[str, Any], **kwargs: Any
    ) -> None:
        kwargs["args"]._n_gpu = min(1, kwargs["args"].n_gpu)  # the Trainer wraps in DataParallel above 1
        super().__init__(compute_loss_func=mean_loss, **kwargs)
        self.order = LengthGroupedOrder(lengths, effective_batch_size, self.args.seed)
        self.fingerprint = fingerprint

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedOrder:
        return self.order

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        return torch.utils.data.SequentialSampler(eval_dataset)  # the caller has sorted it by length

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the Trainer's, but a checkpoint saved before it resumes as one saved after it."""
        with torch.random.fork_rng(devices=[]):  # each data loader takes a number from the generator
            metrics: dict[str, float] = super().evaluate(*args, **kwargs)
            return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            write_json(folder / COMPLETE, self.fingerprint)


class BatchOrderCallback(TrainerCallback):
    """Tells the batch order which epoch it is, resumed or not."""

    def __init__(self, order: LengthGroupedOrder) -> None:
        self.order = order

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the epoch, counted from 0."""
        self.order.epoch = int(state.epoch or 0)


class StopOnSignal(TrainerCallback):
    """SIGINT and SIGTERM: finish the step, save a checkpoint, stop. A second signal kills at once.

    At the last step of an epoch the epoch's evaluation comes first, so that the checkpoint has its record.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the signals over."""
        self._before = {number: signal.signal(number, self._handle) for number in self.SIGNALS}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        self.received = number
        log.warning(
            "%s: saving a checkpoint after this step; again to stop at once", signal.Signals(number).name
        )
        for each in self.SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save and stop, unless the epoch ends with this step."""
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


def metrics_function(classes: int) -> Callable[[Any], dict[str, float]]:
    """``compute_metrics`` for the Trainer: the classification metrics of a split's logits."""
    from goodreads.metrics import classification_metrics

    return lambda scored: classification_metrics(
        scored.predictions.argmax(axis=-1), scored.label_ids, classes
    )

"""What a run does, as lines of the log; and what it did, as training_log.json (README, "Files")."""

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Args

from goodreads.common import checkout, machine
from goodreads.common.files import sha256_file
from goodreads.common.progress import log
from goodreads.training.checkpoints import OWN
from goodreads.training.options import FLAGS, RunArguments
from goodreads.training.trainer import GenreTrainer

# of the fingerprint; the rest is transformers' own defaults, and the batch plan stands by itself
SETTINGS = {*OWN, *FLAGS, "seed", "train_content_sha256"} - {"per_device_train_batch_size"}
Document = dict[str, Any]
SHOWN = ("loss", "learning_rate", "accuracy")
LOSS_COLUMNS = ("step", "epoch", "loss", "learning_rate")


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


class Phases:
    """Wall time of each phase in seconds; the first began at ``started``, of ``time.perf_counter``."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.seconds: dict[str, float] = {}

    def end(self, name: str) -> None:
        """The phase that ran until now is called ``name``."""
        self.seconds[name] = time.perf_counter() - self.started - sum(self.seconds.values())


def training_record(
    run: RunArguments, trainer: GenreTrainer, fingerprint: Document, phases: Phases, files: dict[str, str]
) -> Document:
    """What a finished run did.

    Args:
        run: the options.
        trainer: after training.
        fingerprint: what decided the weights.
        phases: of the run.
        files: SHA-256 of the model's files.
    """
    state, lengths = trainer.state, trainer.train_dataset.lengths
    # of the part since a resumption, evaluations included
    speed = next(e["train_samples_per_second"] for e in state.log_history[::-1] if "train_runtime" in e)
    best, saved = state.best_model_checkpoint, state.best_global_step or state.global_step
    settings = {name: value for name, value in fingerprint.items() if name in SETTINGS}
    manifest = sha256_file(run.data_dir / "manifest.json")
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings | {"recipe": run.recipe},
        "batch": vars(trainer.plan),
        "epochs": epoch_records(state.log_history),
        "steps": state.global_step,
        "losses": [{name: e[name] for name in LOSS_COLUMNS} for e in state.log_history if "loss" in e],
        "saved_epoch": round((state.epoch or 0) * saved / state.global_step, 6),
        "best_checkpoint": Path(best).name if best else None,
        "data": {"train_reviews": len(lengths), "manifest_sha256": manifest},
        "model": {"files_sha256": files},
        "seconds": phases.seconds,
        "throughput": {"reviews_per_second": speed, "tokens_per_second": speed * float(lengths.mean())},
        "environment": machine.environment(),
        "git_commit": checkout.commit(Path(__file__).parent),
    }


def epoch_records(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The Trainer's log as one record per epoch: epoch, step, train_loss, and test_*/validation_* figures."""
    records: dict[int, dict[str, float]] = {}
    losses = [entry for entry in history if "loss" in entry]
    steps = np.diff([0, *(entry["step"] for entry in losses)])  # a logged loss is the mean of so many
    for entry in history:
        record = records.setdefault(_epoch(entry), {"epoch": _epoch(entry)})
        record["step"] = entry["step"]
        for key, value in entry.items():
            if key.startswith("eval_") and not key.endswith(("_runtime", "_per_second")):
                record[key.removeprefix("eval_")] = value
    for epoch, record in records.items():
        own = [_epoch(entry) == epoch for entry in losses]
        record["train_loss"] = np.average([entry["loss"] for entry in losses], weights=steps * own)
    return list(records.values())


def _epoch(entry: dict[str, float]) -> int:
    return math.ceil(entry["epoch"] - 1e-9)

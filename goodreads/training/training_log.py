"""training_log.json: what a run did, epoch by epoch, and at what speed. README, "Files", has the format."""

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from goodreads.common import machine
from goodreads.common.files import sha256_file
from goodreads.training.checkpoints import OWN, step
from goodreads.training.options import FLAGS, RunArguments
from goodreads.training.trainer import GenreTrainer

# of the fingerprint; the rest is transformers' own defaults, and the batch plan stands by itself
SETTINGS = {*OWN, *FLAGS, "seed", "train_content_sha256"} - {"per_device_train_batch_size"}
LOSS_COLUMNS = ("step", "epoch", "loss", "learning_rate")


@dataclass
class Phases:
    """Wall time of each phase in seconds; the first began at ``started``, of ``time.perf_counter``."""

    started: float
    seconds: dict[str, float] = field(default_factory=dict)

    def end(self, name: str) -> None:
        """The phase that ran until now is called ``name``."""
        self.seconds[name] = time.perf_counter() - self.started - sum(self.seconds.values())


def training_record(
    run: RunArguments,
    trainer: GenreTrainer,
    fingerprint: dict[str, Any],
    seconds: dict[str, float],
    resumed: Path | None,
    files: dict[str, str],
) -> dict[str, Any]:
    """What a finished run did.

    Args:
        run: the options.
        trainer: after training.
        fingerprint: what decided the weights.
        seconds: wall time per phase.
        resumed: the checkpoint that the run was resumed from; speeds are those of the part since then.
        files: SHA-256 of the model's files.
    """
    state, lengths = trainer.state, trainer.train_dataset.lengths
    resumed_from, epochs = step(resumed) if resumed else 0, state.epoch or 0
    evaluation = sum(
        value
        for entry in state.log_history
        for key, value in entry.items()
        if key.endswith("_runtime") and key != "train_runtime" and entry["step"] > resumed_from
    )
    training = seconds["train"] - evaluation
    per_second = epochs * (1 - resumed_from / state.global_step) / training
    settings = {name: value for name, value in fingerprint.items() if name in SETTINGS}
    losses = [entry for entry in state.log_history if "loss" in entry]
    best, saved = state.best_model_checkpoint, state.best_global_step or state.global_step
    reviews, tokens = len(lengths), int(lengths.sum())
    manifest = sha256_file(run.data_dir / "manifest.json")
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings | {"recipe": run.recipe},
        "batch": vars(trainer.plan),
        "epochs": epoch_records(state.log_history),
        "steps": state.global_step,
        "losses": [{name: entry[name] for name in LOSS_COLUMNS} for entry in losses],
        "saved_epoch": round(epochs * saved / state.global_step, 6),
        "resumed_from": resumed.name if resumed else None,
        "best_checkpoint": Path(best).name if best else None,
        "data": {"train_reviews": reviews, "train_tokens_per_epoch": tokens, "manifest_sha256": manifest},
        "model": {"folder": str(run.output_dir), "files_sha256": files},
        "seconds": seconds | {"train": training, "evaluate_epochs": evaluation},
        "throughput": {"reviews_per_second": reviews * per_second, "tokens_per_second": tokens * per_second},
        "environment": machine.environment(),
        "git_commit": machine.git_commit(Path(__file__).parent),
    }


def epoch_records(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The Trainer's log as one record per epoch: epoch, step, train_loss, and test_*/validation_* figures."""
    records: dict[int, dict[str, float]] = {}
    losses: dict[int, list[tuple[float, float]]] = {}  # epoch -> steps and their mean loss
    last_step = 0.0
    for entry in history:
        epoch = math.ceil(entry["epoch"] - 1e-9)
        if "loss" in entry:
            losses.setdefault(epoch, []).append((entry["step"] - last_step, entry["loss"]))
            last_step = entry["step"]
        for key, value in entry.items():
            if key.startswith("eval_") and not key.endswith(("_runtime", "_per_second")):
                record = records.setdefault(epoch, {"epoch": epoch, "step": entry["step"]})
                record[key.removeprefix("eval_")] = value
    for epoch, record in records.items():
        if parts := losses.get(epoch):
            record["train_loss"] = sum(n * loss for n, loss in parts) / sum(n for n, _ in parts)
    return [records[epoch] for epoch in sorted(records)]

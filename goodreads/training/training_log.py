"""training_log.json: what a run did, epoch by epoch, and at what speed. README, "Files", has the format."""

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from goodreads.common import machine
from goodreads.training.checkpoints import OWN, step
from goodreads.training.flags import HONOURED
from goodreads.training.trainer import GenreTrainer

# of the fingerprint; the rest is transformers' own defaults, and the batch plan stands by itself
SETTINGS = {*OWN, *HONOURED, "seed", "train_content_sha256"} - {"per_device_train_batch_size"}


class Phases:
    """Wall time of each phase, in seconds."""

    def __init__(self, started: float) -> None:
        """The first phase began at ``started``, of ``time.perf_counter``."""
        self.seconds: dict[str, float] = {}
        self._last = started

    def end(self, name: str) -> None:
        """The phase that ran until now is called ``name``."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


def training_record(
    trainer: GenreTrainer,
    fingerprint: dict[str, Any],
    seconds: dict[str, float],
    resumed: Path | None,
    variables: dict[str, str],
) -> dict[str, Any]:
    """What a finished run did.

    Args:
        trainer: after training.
        fingerprint: what decided the weights.
        seconds: wall time per phase.
        resumed: the checkpoint that the run was resumed from; speeds are those of the part since then.
        variables: of the environment that may change figures or speed.
    """
    resumed_from = step(resumed) if resumed else 0
    state, lengths = trainer.state, trainer.train_dataset.lengths
    evaluation = sum(
        value
        for entry in state.log_history
        for key, value in entry.items()
        if key.startswith("eval_") and key.endswith("_runtime") and entry["step"] > resumed_from
    )
    epochs = (state.epoch or 0) * (1 - resumed_from / state.global_step)
    per_second = epochs / (seconds["train"] - evaluation)
    saved = state.best_global_step or state.global_step
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {name: value for name, value in fingerprint.items() if name in SETTINGS},
        "batch": vars(trainer.plan),
        "epochs": epoch_records(state.log_history),
        "steps": state.global_step,
        "losses": [
            {name: entry[name] for name in ("step", "epoch", "loss", "learning_rate")}
            for entry in state.log_history
            if "loss" in entry
        ],
        "saved_epoch": round((state.epoch or 0) * saved / state.global_step, 6),
        "resumed_from": resumed.name if resumed else None,
        "best_checkpoint": Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None,
        "data": {"train_reviews": len(lengths), "train_tokens_per_epoch": int(lengths.sum())},
        "seconds": seconds | {"train": seconds["train"] - evaluation, "evaluate_epochs": evaluation},
        "throughput": {
            "reviews_per_second": len(lengths) * per_second,
            "tokens_per_second": int(lengths.sum()) * per_second,
        },
        "environment": machine.environment() | {"variables": variables},
        "git_commit": machine.git_commit(Path(__file__).parent),
    }


def epoch_table(record: dict[str, Any]) -> str:
    """One line per epoch: losses and test accuracy and weighted F1."""
    lines = [f"{'epoch':>5}{'step':>7}{'train loss':>12}{'test loss':>11}{'accuracy':>10}{'F1':>8}"]
    for row in record["epochs"]:
        lines.append(
            f"{row['epoch']:>5}{row['step']:>7}{row.get('train_loss', math.nan):>12.4f}"
            f"{row['test_loss']:>11.4f}{row['test_accuracy']:>10.4f}{row['test_f1_weighted']:>8.4f}"
        )
    return "\n".join(lines)


def epoch_records(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The Trainer's log as one record per epoch: epoch, step, train_loss, and test_*/validation_* figures."""
    records: dict[int, dict[str, float]] = {}
    losses: dict[int, list[tuple[int, float]]] = {}
    last_step = 0
    for entry in history:
        epoch = math.ceil(entry["epoch"] - 1e-9)
        if "loss" in entry:
            losses.setdefault(epoch, []).append((int(entry["step"]) - last_step, entry["loss"]))
            last_step = int(entry["step"])
        wanted = {
            key.removeprefix("eval_"): value
            for key, value in entry.items()
            if key.startswith("eval_") and not key.endswith(("_runtime", "_per_second"))
        }
        if wanted:
            records.setdefault(epoch, {"epoch": epoch, "step": int(entry["step"])}).update(wanted)
    for epoch, parts in losses.items():
        if epoch in records:
            steps = sum(n for n, _ in parts)
            records[epoch]["train_loss"] = sum(n * loss for n, loss in parts) / steps
    return [records[epoch] for epoch in sorted(records)]

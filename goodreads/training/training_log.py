"""training_log.json: what a run did, epoch by epoch, and at what speed. README, "Files", has the format."""

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from goodreads.common import machine as runtime


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
    trainer: Any, plan: Any, fingerprint: dict[str, Any], seconds: dict[str, float], resumed_from: str | None
) -> dict[str, Any]:
    """What a finished run did.

    Args:
        trainer: the GenreTrainer after training.
        plan: its BatchPlan.
        fingerprint: what decided the weights.
        seconds: wall time per phase.
        resumed_from: the checkpoint's name, or None; the figures of speed are then of the second part.
    """
    state, tokens = trainer.state, int(trainer.train_dataset.lengths.sum())
    evaluation = sum(
        value
        for entry in state.log_history
        for key, value in entry.items()
        if key.startswith("eval_")
        and key.endswith("_runtime")
        and entry["step"] > trainer._initial_global_step
    )
    training = seconds["train"] - evaluation
    share = (
        1 - trainer._initial_global_step / state.max_steps
        if resumed_from
        else state.epoch / state.num_train_epochs
    )
    epochs = state.num_train_epochs * share
    return {
        "format": 1,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": fingerprint,
        "batch": vars(plan),
        "epochs": epoch_records(state.log_history),
        "steps": state.global_step,
        "resumed_from": resumed_from,
        "best_checkpoint": Path(state.best_model_checkpoint).name if state.best_model_checkpoint else None,
        "data": {
            "train_reviews": len(trainer.train_dataset),
            "train_tokens_per_epoch": tokens,
        },
        "seconds": seconds | {"train": training, "evaluate_epochs": evaluation},
        "throughput": {
            "reviews_per_second": len(trainer.train_dataset) * epochs / training,
            "tokens_per_second": tokens * epochs / training,
        },
        "environment": runtime.environment(),
        "git_commit": runtime.git_commit(Path(__file__).parent),
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

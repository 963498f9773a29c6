"""training_log.json from the Trainer's history."""

import pytest

from goodreads.training.training_log import epoch_records


def test_the_trainers_history_becomes_one_record_per_epoch() -> None:
    history = [
        {"epoch": 0.5, "step": 4, "loss": 2.0, "learning_rate": 1e-3},
        {"epoch": 1.0, "step": 10, "loss": 1.0, "learning_rate": 1e-3},
        {
            "epoch": 1.0,
            "step": 10,
            "eval_test_loss": 1.5,
            "eval_test_accuracy": 0.4,
            "eval_test_runtime": 3.0,
        },
        {"epoch": 1.0, "step": 10, "eval_validation_loss": 1.6},
        {"epoch": 2.0, "step": 20, "loss": 0.5},
        {"epoch": 2.0, "step": 20, "eval_test_loss": 1.2, "eval_test_samples_per_second": 9.0},
        {"epoch": 2.0, "step": 20, "train_loss": 0.9},
    ]
    first, second = epoch_records(history)
    assert first == {
        "epoch": 1,
        "step": 10,
        "test_loss": 1.5,
        "test_accuracy": 0.4,
        "validation_loss": 1.6,
        "train_loss": pytest.approx((4 * 2.0 + 6 * 1.0) / 10),
    }
    assert second == {"epoch": 2, "step": 20, "test_loss": 1.2, "train_loss": 0.5}

"""training_log.json from the Trainer's history."""

import pytest

from goodreads.training.training_log import epoch_records


def test_the_trainers_history_becomes_one_record_per_epoch() -> None:
    first, last = {"epoch": 1.0, "step": 10}, {"epoch": 2.0, "step": 20}
    history = [
        {"epoch": 0.5, "step": 4, "loss": 2.0, "learning_rate": 1e-3},
        first | {"loss": 1.0, "learning_rate": 1e-3},
        first | {"eval_test_loss": 1.5, "eval_test_accuracy": 0.4, "eval_test_runtime": 3.0},
        first | {"eval_validation_loss": 1.6},
        last | {"loss": 0.5},
        last | {"eval_test_loss": 1.2, "eval_test_samples_per_second": 9.0},
        last | {"train_loss": 0.9},
    ]
    figures = {"test_loss": 1.5, "test_accuracy": 0.4, "validation_loss": 1.6}
    mean = pytest.approx((4 * 2.0 + 6 * 1.0) / 10)
    assert epoch_records(history) == [
        {"epoch": 1, "step": 10, "train_loss": mean} | figures,
        {"epoch": 2, "step": 20, "train_loss": 0.5, "test_loss": 1.2},
    ]

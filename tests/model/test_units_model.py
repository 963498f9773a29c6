"""Batches, losses, metrics and records, without any training."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from goodreads.common.errors import InputError
from goodreads.evaluation import comparison, metrics
from goodreads.model.scratch_model import build_tokenizer
from goodreads.training.options import read_recipe
from goodreads.training.trainer import mean_loss
from goodreads.training.training_log import epoch_records


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 1000))
@settings(deadline=None)
def test_micro_batches_of_any_size_add_up_to_the_whole_batch(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(sum(sizes), 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, 8, (sum(sizes),), generator=generator)
    whole = mean_loss(SimpleNamespace(logits=logits), labels)
    (expected,) = torch.autograd.grad(whole, logits)
    parts = zip(logits.split(sizes), labels.split(sizes))
    total = sum(mean_loss(SimpleNamespace(logits=a), b, num_items_in_batch=sum(sizes)) for a, b in parts)
    assert isinstance(total, torch.Tensor)
    (found,) = torch.autograd.grad(total, logits)
    torch.testing.assert_close(total, whole)
    torch.testing.assert_close(found, expected)


def some_predictions(n: int = 400, classes: int = 8) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, classes - 1, n)  # the last class has no reviews
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    logits[np.arange(n), labels] += 1
    return logits, labels, logits.argmax(axis=1)


def test_figures_are_scikit_learns_and_torchs() -> None:
    logits, labels, predictions = some_predictions()
    found = metrics.figures(logits, labels, [f"g{i}" for i in range(8)], seed=0)
    for average in ("weighted", "macro"):
        expected = precision_recall_fscore_support(
            labels, predictions, labels=range(8), average=average, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected):
            assert found["metrics"][f"{name}_{average}"]["value"] == pytest.approx(value)
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits, dtype=torch.float64), torch.tensor(labels))
    assert found["metrics"]["loss"]["value"] == pytest.approx(loss.item())
    assert found["per_class"]["g7"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    assert np.sum(found["confusion_matrix"]) == 400


def test_the_bootstraps_own_metrics_are_the_reported_ones() -> None:
    _, labels, predictions = some_predictions()
    counts = np.zeros((8, 8), dtype=np.int64)
    np.add.at(counts, (labels, predictions), 1)
    expected = metrics.classification_metrics(predictions, labels, 8)
    assert metrics._from_confusion(counts) == pytest.approx(expected)


def test_the_accuracy_interval_is_the_binomial_one() -> None:
    logits, labels, _ = some_predictions(2000)
    interval = metrics.figures(logits, labels, list("abcdefgh"), seed=3)["metrics"]["accuracy"]
    half = 1.96 * math.sqrt(interval["value"] * (1 - interval["value"]) / 2000)
    assert interval["high"] - interval["value"] == pytest.approx(half, rel=0.1)
    assert interval["value"] - interval["low"] == pytest.approx(half, rel=0.1)
    again = metrics.figures(logits, labels, list("abcdefgh"), seed=3)["metrics"]["accuracy"]
    assert again == interval


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


def test_recipes_are_flat_mappings(tmp_path: Any) -> None:
    assert "--effective_batch_size" in read_recipe("report")
    nested = tmp_path / "nested.yaml"
    nested.write_text("model:\n  name: x\n")
    with pytest.raises(InputError, match="not a flat mapping"):
        read_recipe(str(nested))
    nested.write_text("a: [")
    with pytest.raises(InputError, match="is not YAML"):
        read_recipe(str(nested))


def test_the_report_recipe_is_the_references_table_1() -> None:
    words = read_recipe("report")
    recipe = dict(zip(words[::2], words[1::2]))
    assert recipe["--num_train_epochs"] == "3"
    assert float(recipe["--learning_rate"]) == 2e-5
    assert float(recipe["--weight_decay"]) == 0.01
    assert recipe["--max_length"] == "512"
    # 6,400 reviews in 3 epochs were 150 steps
    assert 3 * 6400 / int(recipe["--effective_batch_size"]) == 150


def test_the_small_tokenizer_is_the_same_every_time() -> None:
    texts = [f"The {word} was unlike the {other}, wasn't it?" for word in "abc" for other in ("magic", "war")]
    first, second = (build_tokenizer(texts, 64).get_vocab() for _ in range(2))
    assert first == second
    assert [first[token] for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")] == list(range(5))
    assert build_tokenizer(texts, 8)("magic " * 20, truncation=True)["input_ids"][0] == 2


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_mcnemar_is_the_binomial_test_of_the_disagreements(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column) for column in zip(*pairs))
    found = comparison.mcnemar(first, second)
    n = found["only_first_right"] + found["only_second_right"]
    expected = binomtest(int(found["only_first_right"]), int(n)).pvalue if n else 1.0
    assert found["p_value"] == pytest.approx(expected)


def test_the_paired_interval_is_narrower_than_two_separate_ones() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(1000) < 0.6
    second = first ^ (rng.random(1000) < 0.02)
    gain = comparison.accuracy_difference(first, second, seed=1)
    assert gain == comparison.accuracy_difference(first, second, seed=1)
    assert gain["value"] == pytest.approx(second.mean() - first.mean())
    spread = 1.96 * np.sqrt(((second.astype(int) - first) ** 2).mean() / 1000)
    assert gain["high"] - gain["low"] == pytest.approx(2 * spread, rel=0.15)

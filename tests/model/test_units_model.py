"""Batches, losses, metrics and records, without any training."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from goodreads.common.errors import InputError
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

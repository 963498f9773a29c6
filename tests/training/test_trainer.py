"""GenreTrainer: losses, micro-batches, few shapes, and how a run that goes wrong ends."""

from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import TrainingArguments

from benchmarks.speed import random_texts
from goodreads.common.errors import CheckFailed, InputError
from goodreads.model import packed
from goodreads.model.packed import Packed
from tests.model.reviews import make_trainer, some_lengths, some_reviews, tiny_distilbert


@pytest.mark.parametrize("effective", [16, 128])
@pytest.mark.parametrize("source", ["log-normal", "real"])
def test_few_shapes_reach_the_linear_layers(
    tmp_path: Path, effective: int, source: str, monkeypatch: pytest.MonkeyPatch, request: Any
) -> None:
    """An epoch of 6,400 reviews in steps of 16 or 128, and the scoring of 1,600, with the plan for CUDA."""
    lengths = some_lengths(8_000, seed=5)
    if source == "real":
        request.getfixturevalue("real")
        lengths = np.array([len(text.split()) + 2 for text in random_texts(8_000)])
    train, test = some_reviews(lengths[:6_400]), some_reviews(lengths[6_400:])
    monkeypatch.setattr(packed, "_attend", lambda rows, *rest: rows[0])  # slow, and does not change shapes
    model = tiny_distilbert(dim=8, hidden_dim=8, n_heads=1)
    plan = (None, 1, "cuda")
    trainer = make_trainer(tmp_path, train, test, effective, plan, model=model, num_train_epochs=1)
    assert isinstance(trainer.layout, Packed)
    tokens: list[int] = []
    rows: list[int] = []
    layers = model.distilbert.transformer.layer
    layers[0].attention.q_lin.register_forward_hook(lambda _, given, made: tokens.append(given[0].shape[1]))
    for layer in (model.pre_classifier, model.classifier, layers[-1].ffn.lin1):
        layer.register_forward_hook(lambda _, given, made: rows.append(given[0].shape[0]))
    trainer.train()
    assert len(set(tokens)) <= 6 and len(set(rows)) <= 3
    assert 1 - lengths.sum() / sum(tokens) < 0.15
    assert trainer.state.global_step == 6_400 // effective


@pytest.mark.parametrize("plan", [(None, 1, "cuda"), (3, 1, "cpu"), (1, 1, "cpu")], ids=str)
def test_micro_batches_do_not_change_the_training(tmp_path: Path, plan: Any) -> None:
    train, test = some_reviews([*np.random.default_rng(1).integers(2, 40, 26), 150]), some_reviews([5, 9, 70])
    runs = []
    for each in ((None, 1, "cpu"), plan):
        trainer = make_trainer(tmp_path, train, test, 8, each, num_train_epochs=2, learning_rate=0.5)
        trainer.train()
        history = trainer.state.log_history
        losses = [entry[key] for entry in history for key in ("loss", "eval_test_loss") if key in entry]
        runs.append((losses, trainer.model.get_parameter("classifier.weight")))
    (wanted, weight), (found, other_weight) = runs
    assert len(wanted) == 10 and found == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(other_weight, weight, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("logging", [1, 100])
def test_training_stops_at_a_loss_that_is_not_finite(tmp_path: Path, logging: int) -> None:
    options = {"max_steps": 6, "learning_rate": 1e38, "logging_steps": logging, "eval_strategy": "no"}
    trainer = make_trainer(tmp_path, some_reviews(some_lengths(24)), None, 8, **options)
    with pytest.raises(CheckFailed, match=r"the loss is (nan|inf) at step \d.*--learning_rate"):
        trainer.train()
    assert trainer.state.global_step < 6


def test_figures_that_are_not_finite_end_a_run(tmp_path: Path) -> None:
    """On a GPU and with several processes the loss is looked at when it is logged."""
    trainer = make_trainer(tmp_path, some_reviews([5] * 8), some_reviews([5, 7]), 8)
    with pytest.raises(CheckFailed, match="the loss is nan"):
        trainer.log({"loss": float("nan"), "learning_rate": 1.0})
    trainer.log({"loss": 1.0})
    trainer.model.get_parameter("classifier.bias").data[3] = torch.nan
    with pytest.raises(CheckFailed, match="the logits of 2 of 2 reviews are not finite"):
        trainer.evaluate()


ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory.")
ON_A_CPU = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")


@pytest.mark.parametrize(
    ("error", "reviews", "message"),
    [
        (ON_A_GPU, 8, "_batch_size 4 --effective_batch_size 8"),
        (ON_A_CPU, 1, "with 1 reviews at once.*lower --max_length"),
        (RuntimeError("another one"), 8, "another one"),
    ],
)
def test_out_of_memory_names_the_options_to_run_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reviews: int, message: str
) -> None:
    trainer = make_trainer(tmp_path, some_reviews([5] * 8), None, reviews, eval_strategy="no")
    monkeypatch.setattr(trainer.model, "forward", mock.Mock(side_effect=error))
    with pytest.raises(RuntimeError if message in str(error) else InputError, match=message):
        trainer.train()


def test_one_process_uses_one_gpu(tmp_path: Path) -> None:
    """``TrainingArguments._n_gpu`` is private: this fails when it goes."""
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    assert arguments.n_gpu == arguments._n_gpu
    arguments._n_gpu = 4
    assert arguments.n_gpu == 4 and arguments.train_batch_size == 4 * arguments.per_device_train_batch_size
    trainer = make_trainer(tmp_path, some_reviews([5, 6]), None, 2, args=arguments)
    assert trainer.args.n_gpu == 1

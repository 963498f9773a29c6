"""GenreTrainer: losses, micro-batches, few shapes, resuming, and how a run that goes wrong ends."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from goodreads.common.errors import CheckFailed, InputError
from goodreads.model import packed
from goodreads.model.batching import plan_batches
from goodreads.model.packed import Packed
from goodreads.training.trainer import GenreTrainer
from tests.model.reviews import Tokenizer, some_lengths, some_reviews, tiny_distilbert


def make_trainer(
    folder: Path, train: Any, test: Any, effective: int, kind: str = "cpu", model: Any = None, **options: Any
) -> GenreTrainer:
    """A trainer without files; ``kind`` is the device that the plan is for."""
    per_device = options.pop("per_device", None)
    callbacks = options.pop("callbacks", None)
    arguments = TrainingArguments(
        **{"output_dir": str(folder), "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 42},
        **{"eval_strategy": "epoch", "save_strategy": "no", "logging_steps": 1, "optim": "sgd"} | options,
    )
    return GenreTrainer(
        model=model or tiny_distilbert(),
        args=arguments,
        train_dataset=train,
        eval_dataset={"test": test},
        processing_class=Tokenizer(),
        callbacks=callbacks,
        plan=plan_batches(effective, per_device, 1, kind),
    )


def losses(trainer: GenreTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("effective", [16, 128])
def test_few_shapes_reach_the_linear_layers(
    tmp_path: Path, effective: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch of 6,400 reviews in steps of 16 or 128, and the scoring of 1,600, with the plan for CUDA."""
    lengths = some_lengths(8_000, seed=5)
    train, test = some_reviews(lengths[:6_400]), some_reviews(lengths[6_400:])
    monkeypatch.setattr(packed, "_attend", lambda rows, *rest: rows[0])  # slow, and does not change shapes
    shape = {"dim": 8, "hidden_dim": 8, "n_layers": 2, "n_heads": 1}
    model = tiny_distilbert(**shape)
    trainer = make_trainer(tmp_path, train, test, effective, "cuda", model, num_train_epochs=1)
    assert isinstance(trainer.layout, Packed)
    tokens, rows, filled = set(), set(), 0

    def record_tokens(module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        nonlocal filled
        tokens.add(inputs[0].shape[1])
        filled += inputs[0].shape[1]

    def record_rows(module: Any, inputs: tuple[torch.Tensor, ...], output: Any) -> None:
        rows.add(inputs[0].shape[0])

    model.distilbert.transformer.layer[0].attention.q_lin.register_forward_hook(record_tokens)
    for layer in (model.pre_classifier, model.classifier, model.distilbert.transformer.layer[-1].ffn.lin1):
        layer.register_forward_hook(record_rows)
    trainer.train()
    assert len(tokens) <= 6 and len(rows) <= 3
    assert 1 - lengths.sum() / filled < 0.15
    assert trainer.state.global_step == 6_400 // effective


@pytest.mark.parametrize("options", [{"kind": "cuda"}, {"per_device": 3}, {"per_device": 1}], ids=str)
def test_micro_batches_do_not_change_the_training(tmp_path: Path, options: dict[str, Any]) -> None:
    lengths = [*np.random.default_rng(1).integers(2, 40, 26), 150]
    train, test = some_reviews(lengths), some_reviews([5, 9, 70])
    runs = []
    for each in ({}, options):
        trainer = make_trainer(tmp_path, train, test, 8, num_train_epochs=2, learning_rate=0.5, **each)
        trainer.train()
        metrics = trainer.evaluate()
        runs.append((losses(trainer), metrics["eval_test_loss"], trainer.model.classifier.weight.detach()))
    (wanted, loss, weight), (found, other_loss, other_weight) = runs
    assert len(wanted) == 8 and found == pytest.approx(wanted, rel=1e-5)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(other_weight, weight, rtol=1e-5, atol=1e-7)


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


@pytest.mark.parametrize("step", [2, 4])
def test_a_resumed_run_ends_with_the_weights_of_one_that_ran_through(tmp_path: Path, step: int) -> None:
    """Bit for bit, with dropout; stopped within the first epoch or at its end."""
    train, test = some_reviews(some_lengths(28)), some_reviews([5, 9])
    options = {"num_train_epochs": 2, "optim": "adamw_torch", "learning_rate": 1e-2}

    def trainer(folder: str, callbacks: Any = None) -> GenreTrainer:
        model = tiny_distilbert(dropout=0.2)
        return make_trainer(tmp_path / folder, train, test, 8, model=model, callbacks=callbacks, **options)

    whole = trainer("whole")
    whole.train()
    trainer("parts", [StopAt(step)]).train()
    resumed = trainer("parts")
    resumed.train(resume_from_checkpoint=str(tmp_path / "parts" / f"checkpoint-{step}"))
    assert resumed.state.global_step == whole.state.global_step == 8
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_each_test_review_is_scored_once(tmp_path: Path) -> None:
    train, test = some_reviews([5, 9, 70, 3]), some_reviews(some_lengths(101))
    trainer = make_trainer(tmp_path, train, test, 4)
    output = trainer.evaluation_loop(trainer.get_eval_dataloader("test"), "", metric_key_prefix="eval_test")
    plain, logits = tiny_distilbert(), []
    for ids in test.rows("input_ids", range(101)):
        logits.append(plain(torch.tensor(ids)[None].long()).logits[0].detach().numpy())
    np.testing.assert_allclose(output.predictions, np.stack(logits), rtol=1e-4, atol=1e-6)
    right = output.predictions.argmax(axis=1) == test.labels
    assert output.metrics["eval_test_accuracy"] == pytest.approx(right.mean())


@pytest.mark.parametrize(("steps", "logging"), [(6, 1), (6, 100)])
def test_training_stops_at_a_loss_that_is_not_finite(tmp_path: Path, steps: int, logging: int) -> None:
    train, test = some_reviews(some_lengths(24)), some_reviews([5, 9])
    options = {"max_steps": steps, "learning_rate": 1e38, "logging_steps": logging, "eval_strategy": "no"}
    trainer = make_trainer(tmp_path, train, test, 8, **options)
    with pytest.raises(CheckFailed, match=r"the loss is (nan|inf) at step \d.*--learning_rate"):
        trainer.train()
    assert trainer.state.global_step < steps


def test_a_loss_that_is_not_finite_is_found_when_it_is_logged(tmp_path: Path) -> None:
    """On a GPU and with several processes, where the loss of each step is not looked at."""
    trainer = make_trainer(tmp_path, some_reviews([5] * 8), some_reviews([5]), 8)
    with pytest.raises(CheckFailed, match="the loss is nan"):
        trainer.log({"loss": float("nan"), "learning_rate": 1.0})
    trainer.log({"loss": 1.0})


def test_logits_that_are_not_finite_end_the_evaluation(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, some_reviews([5] * 8), some_reviews([5, 7]), 8)
    trainer.model.classifier.bias.data[3] = torch.nan
    with pytest.raises(CheckFailed, match="the logits of 2 of 2 reviews are not finite"):
        trainer.evaluate()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            "--per_device_train_batch_size 2 --effective_batch_size 8",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "8 reviews",
        ),
    ],
)
def test_out_of_memory_names_the_options_to_run_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    cuda = isinstance(error, torch.OutOfMemoryError)
    trainer = make_trainer(
        tmp_path, some_reviews([5] * 8), some_reviews([5]), 8, per_device=4 if cuda else None
    )
    monkeypatch.setattr(trainer.model, "forward", fail)
    with pytest.raises(InputError, match=message):
        trainer.train()
    trainer = make_trainer(tmp_path, some_reviews([5] * 8), some_reviews([5]), 1)
    monkeypatch.setattr(trainer.model, "forward", fail)
    with pytest.raises(InputError, match="a single review; lower --max_length"):
        trainer.train()


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    trainer = make_trainer(tmp_path, some_reviews([5] * 8), some_reviews([5]), 8)
    monkeypatch.setattr(trainer.model, "forward", fail)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer.train()


def test_one_process_uses_one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``TrainingArguments._n_gpu`` is private: this fails when it goes."""
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to=[], use_cpu=True)
    assert arguments.n_gpu == arguments._n_gpu
    arguments._n_gpu = 4
    assert arguments.n_gpu == 4 and arguments.train_batch_size == 4 * arguments.per_device_train_batch_size
    trainer = GenreTrainer(
        model=tiny_distilbert(), args=arguments, train_dataset=some_reviews([5, 6]),
        processing_class=Tokenizer(), plan=plan_batches(2, None, 1, "cpu"),
    )  # fmt: skip
    assert trainer.args.n_gpu == 1

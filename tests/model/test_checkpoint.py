"""Models of many kinds are trained, saved, loaded and scored; what is not a whole model is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import SUFFIX
from goodreads.data.split_store import Split
from goodreads.evaluation.scoring import score
from goodreads.model.batching import plan_batches
from goodreads.model.checkpoint import (
    INDEX,
    NO_LIMIT,
    WEIGHTS,
    check_complete,
    check_replaceable,
    inspect,
    load_classifier,
    load_for_training,
    position_limit,
    save,
)
from goodreads.model.tokenized import tokenize_split
from goodreads.training.trainer import GenreTrainer
from tests.helpers import ROOT
from tests.model.zoo import KINDS, TEXTS, WITHOUT_LIMIT, save_base_model

LABELS = ["children", "poetry", "romance"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained DistilBERT; not to be changed."""
    return save_base_model("distilbert", tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A classifier; not to be changed."""
    tokenizer, model = load_for_training(base, LABELS, 16, 1, [])
    folder = tmp_path_factory.mktemp("trained") / "model"
    save(folder, model, tokenizer)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_any_classifier_of_transformers_is_trained_scored_and_published(kind: str, tmp_path: Path) -> None:
    from transformers import TrainingArguments

    folder = save_base_model(kind, tmp_path / "base")
    tokenizer, model = load_for_training(folder, LABELS, 12, 7, [])
    assert position_limit(model) == (NO_LIMIT if kind in WITHOUT_LIMIT else 40)
    texts = ["", "unknown words", *TEXTS, " ".join(TEXTS)]
    ids = [str(i) for i in range(len(texts))]
    reviews = tokenize_split(
        Split(ids, ids, texts, [i % 3 for i in range(len(texts))], LABELS), tokenizer, 12, tmp_path
    )
    plan = plan_batches(6, None, 1, "cpu")
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "none"), max_steps=2, learning_rate=1e-3, save_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer = GenreTrainer(
        model=model, args=arguments, train_dataset=reviews, eval_dataset={"test": reviews},
        processing_class=tokenizer, plan=plan,
    )  # fmt: skip
    trainer.train()
    metrics = trainer.evaluate()
    assert np.isfinite(metrics["eval_test_loss"])
    changed = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
    assert len(changed) > 0.8 * len(before)

    save(tmp_path / "model", trainer.accelerator.unwrap_model(trainer.model), tokenizer)
    assert inspect(tmp_path / "model") == LABELS
    classifier = load_classifier(tmp_path / "model", "float32", "cpu")
    assert classifier.labels == LABELS and classifier.max_length == 12
    logits, tokens = score(classifier, texts)
    assert tokens == reviews.lengths.sum()
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(reviews.labels))
    assert loss.item() == pytest.approx(metrics["eval_test_loss"], rel=1e-5)
    one_by_one = np.concatenate([score(classifier, [text])[0] for text in texts[:4]])
    np.testing.assert_allclose(logits[:4], one_by_one, rtol=1e-4, atol=1e-5)


def test_a_model_is_judged_without_torch(trained: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from goodreads.model.checkpoint import inspect; "
        f"print(inspect(Path({str(trained)!r})), 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == f"{LABELS} False", result.stderr


def test_sharded_weights_load(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    whole = load_classifier(folder, "float32", "cpu").model
    whole.save_pretrained(folder, max_shard_size="10KB")
    (folder / WEIGHTS).unlink(missing_ok=True)
    assert (folder / INDEX).is_file() and inspect(folder) == LABELS
    check_replaceable(folder)
    again = load_classifier(folder, "float32", "cpu").model
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    next(folder.glob("model-00002*")).unlink()
    with pytest.raises(InputError, match="has no model-00002"):
        check_complete(folder)


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def rename_weights(folder: Path, name: str) -> None:
    (folder / WEIGHTS).rename(folder / name)


def drop_weight(folder: Path, part: str) -> None:
    weights = load_file(folder / WEIGHTS)
    save_file({k: v for k, v in weights.items() if part not in k}, folder / WEIGHTS, {"format": "pt"})


def cut_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def other_tokenizer(folder: Path) -> None:
    """One of a larger vocabulary than the model's."""
    state = json.loads((folder / "tokenizer.json").read_text())
    state["model"]["vocab"] |= {f"word{i}": 1_000 + i for i in range(5)}
    (folder / "tokenizer.json").write_text(json.dumps(state))


def adapter(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {  # how; what scoring says; what training says
    "lfs pointer": (lambda f: (f / WEIGHTS).write_text(POINTER), "git lfs pull", "git lfs pull"),
    "cut": (cut_weights, "is damaged", "is damaged"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "is damaged", "is damaged"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "has no model.safetensors", "cannot be loaded: model"),
    "pickle": (lambda f: rename_weights(f, "pytorch_model.bin"), "as a pickle", "cannot be loaded: model"),
    "adapter": (adapter, "holds an adapter", "cannot be loaded: model"),
    "other format of tokenizer.json": (
        lambda f: (f / "tokenizer.json").write_text('{"version": "9", "model": {"type": "Future"}}'),
        "cannot be loaded: tokenizer",
        "cannot be loaded: tokenizer",
    ),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json", "cannot be loaded"),
    "tokenizer of another model": (other_tokenizer, "do not fit", "do not fit"),
    "config.json cut": (lambda f: (f / "config.json").write_text('{"model_ty'), "config.json", "config.json"),
    "config.json of an unknown model": (lambda f: edit_config(f, model_type="new"), "new", "new"),
    "its own code": (
        lambda f: edit_config(f, model_type="new", auto_map={"AutoConfig": "x.C", "AutoModel": "x.M"}),
        "never run",
        "never run",
    ),
    "no classifier": (lambda f: drop_weight(f, "classifier"), "has no trained classifier", ""),
    "half the encoder": (
        lambda f: drop_weight(f, "layer.1"),
        "has no trained classifier",
        "its weights lack",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_not_a_whole_model_is_refused_in_one_line(
    kind: str,
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    damage, scoring, training = DAMAGE[kind]
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    damage(folder)
    with pytest.raises(InputError) as refused:
        load_classifier(folder, "float32", "cpu")
    assert scoring in str(refused.value) and len(str(refused.value)) < 700
    if not training:
        load_for_training(folder, LABELS, 16, 1, [])
        return
    with pytest.raises(InputError) as refused:
        load_for_training(folder, LABELS, 16, 1, [])
    assert training in str(refused.value) and len(str(refused.value)) < 700
    assert not capfd.readouterr().out  # no question about custom code


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: edit_config(f, architectures=["DistilBertForMaskedLM"]), "no trained classifier"),
        (lambda f: edit_config(f, id2label={"0": "a", "2": "b"}), "names no labels"),
        (lambda f: edit_config(f, id2label={str(i): str(i) for i in range(7)}), "no trained classifier"),
        (lambda f: drop_weight(f, "classifier"), "no trained classifier"),
    ],
)
def test_a_model_is_not_published_without_a_trained_classifier(
    trained: Path, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "model"))
    change(folder)
    with pytest.raises(InputError, match=message):
        inspect(folder)


def test_more_tokens_than_a_model_takes_are_refused(base: Path) -> None:
    with pytest.raises(InputError, match="--max_length 41 is more than the 40 tokens"):
        load_for_training(base, LABELS, 41, 1, [])


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path, trained: Path) -> None:
    (tmp_path / f".new{SUFFIX}").mkdir()  # of a run that was killed
    check_replaceable(tmp_path)
    check_replaceable(tmp_path / "new")
    check_replaceable(trained)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        check_replaceable(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        check_replaceable(tmp_path / "notes.txt")


def test_weights_that_are_not_finite_are_not_saved(trained: Path, tmp_path: Path) -> None:
    tokenizer, model = load_for_training(trained, LABELS, 16, 1, [])
    with torch.no_grad():
        model.classifier.weight[1, 2] = torch.nan
    with pytest.raises(CheckFailed, match=r"classifier\.weight is not finite"):
        save(tmp_path / "model", model, tokenizer)
    assert not (tmp_path / "model").exists()


def test_new_weights_depend_on_the_seed_alone(base: Path) -> None:
    models = [load_for_training(base, LABELS, 16, seed, [])[1] for seed in (1, 1, 2)]
    first, same, other = (model.classifier.weight for model in models)
    assert torch.equal(first, same) and not torch.equal(first, other)

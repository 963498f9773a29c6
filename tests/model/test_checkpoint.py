"""Models of many kinds are trained, saved, loaded and scored; what is not a whole model is refused."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
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
from goodreads.model import checkpoint
from goodreads.model.checkpoint import WEIGHTS, load_classifier, load_for_training, save
from goodreads.model.tokenized import tokenize_split
from tests.helpers import ROOT
from tests.model.reviews import make_trainer
from tests.model.zoo import KINDS, TEXTS, save_base_model

LABELS = ["children", "poetry", "romance"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained DistilBERT; not to be changed."""
    return save_base_model("distilbert", tmp_path_factory.mktemp("base"))


@pytest.fixture
def trained(tmp_path: Path, base: Path) -> Path:
    """A classifier."""
    tokenizer, model = load_for_training(base, LABELS, 16, 1, [])
    save(tmp_path / "model", model, tokenizer)
    return tmp_path / "model"


@pytest.mark.parametrize("kind", KINDS)
def test_any_classifier_of_transformers_is_trained_scored_and_published(kind: str, tmp_path: Path) -> None:
    folder = save_base_model(kind, tmp_path / "base")
    tokenizer, model = load_for_training(folder, LABELS, 12, 7, [])
    assert checkpoint.position_limit(model) == (checkpoint.NO_LIMIT if kind == "xlnet" else 40)
    texts = ["", "unknown words", *TEXTS, " ".join(TEXTS)]
    ids, labels = [str(i) for i in range(len(texts))], [i % 3 for i in range(len(texts))]
    reviews = tokenize_split(Split(ids, ids, texts, labels, LABELS), tokenizer, 12, tmp_path)
    before = [weight.clone() for weight in model.parameters()]
    own = {"model": model, "processing_class": tokenizer}
    trainer = make_trainer(tmp_path, reviews, reviews, 6, max_steps=2, optim="adamw_torch", **own)
    trainer.train()
    loss = trainer.evaluate()["eval_test_loss"]
    same = sum(torch.equal(weight, old) for weight, old in zip(model.parameters(), before, strict=True))
    assert same < 0.2 * len(before)

    save(tmp_path / "model", model, tokenizer)
    classifier = load_classifier(tmp_path / "model", "float32", "cpu")
    assert classifier.labels == LABELS and classifier.max_length == 12
    logits, tokens = score(classifier, texts)
    assert (tokens == reviews.lengths).all()
    again = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.tensor(labels))
    assert again.item() == pytest.approx(loss, rel=1e-5)
    one_by_one = np.concatenate([score(classifier, [text])[0] for text in texts[:4]])
    np.testing.assert_allclose(logits[:4], one_by_one, rtol=1e-4, atol=1e-5)


def test_a_model_is_judged_without_torch(trained: Path) -> None:
    program = "import sys, pathlib; from goodreads.model.checkpoint import inspect; "
    program += f"print(inspect(pathlib.Path({str(trained)!r})), 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.strip() == f"{LABELS} False", result.stderr


def test_weights_in_several_files_load(trained: Path) -> None:
    whole = load_classifier(trained, "float32", "cpu").model
    (trained / WEIGHTS).unlink()
    whole.save_pretrained(trained, max_shard_size="10KB")
    assert not (trained / WEIGHTS).exists()
    checkpoint.check_replaceable(trained)
    again = load_classifier(trained, "float32", "cpu").model
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def edit(folder: Path, name: str, key: str = "", **changes: Any) -> None:
    """Change a JSON file, or the object of that key in it."""
    document = json.loads((folder / name).read_text())
    (document[key] if key else document).update(changes)
    (folder / name).write_text(json.dumps(document))


def drop(folder: Path, part: str) -> None:
    """Remove some weights."""
    weights = {key: value for key, value in load_file(folder / WEIGHTS).items() if part not in key}
    save_file(weights, folder / WEIGHTS, {"format": "pt"})


CONFIG, TOKENIZER, POINTER = "config.json", "tokenizer.json", "version https://git-lfs.github.com/spec/v1"
VOCABULARY = {"word0": 1_000, **{f"{a}{b}": 9 for a in "abc" for b in "abc"}}
CODE = {"AutoConfig": "x.C", "AutoModel": "x.M"}
FAILS = "cannot be loaded: "
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {  # how; what scoring says; what training says
    "pointer": (lambda f: (f / WEIGHTS).write_text(POINTER), "git lfs pull", "git lfs pull"),
    "cut": (lambda f: os.truncate(f / WEIGHTS, 9_000), "model.safetensors is damaged", FAILS),
    "pickle": (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), "with save_pretrained", FAILS),
    "adapter": (lambda f: (f / WEIGHTS).rename(f / "adapter_model.safetensors"), "merge an adapter", FAILS),
    "no tokenizer": (lambda f: (f / TOKENIZER).unlink(), "has no tokenizer.json", FAILS),
    "later tokenizer": (lambda f: edit(f, TOKENIZER, "model", type="Later"), FAILS, FAILS),
    "other tokenizer": (lambda f: edit(f, TOKENIZER, "model", vocab=VOCABULARY), "do not fit", "do not fit"),
    "own code": (lambda f: edit(f, CONFIG, model_type="x", auto_map=CODE), "is never run", "is never run"),
    "labels": (lambda f: edit(f, CONFIG, id2label={"0": "a", "2": "b"}), "config.json is damaged", ""),
    "masked": (lambda f: edit(f, CONFIG, architectures=["BertForMaskedLM"]), "no trained classifier", ""),
    "no classifier": (lambda f: drop(f, "classifier"), "no trained classifier", ""),
    "half the encoder": (lambda f: drop(f, "layer.1"), "its weights lack", "its weights lack"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_not_a_whole_model_is_refused(
    kind: str, trained: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, *messages = DAMAGE[kind]
    damage(trained)
    scoring = partial(load_classifier, trained, "float32", "cpu")
    for load, message in zip((scoring, partial(load_for_training, trained, LABELS, 16, 1, [])), messages):
        with pytest.raises(InputError, match=message) if message else nullcontext() as refused:
            load()
        assert not message or len(str(refused.value)) < 600
    assert not capfd.readouterr().out  # no question about custom code


def test_more_tokens_than_a_model_takes_are_refused(base: Path) -> None:
    with pytest.raises(InputError, match="--max_length 41 is more than the 40 tokens"):
        load_for_training(base, LABELS, 41, 1, [])


def test_a_folder_with_other_files_is_not_replaced(tmp_path: Path, trained: Path) -> None:
    (trained / f".new{SUFFIX}").mkdir()  # of a run that was killed
    for folder in (tmp_path / "new", trained):
        checkpoint.check_replaceable(folder)
    (trained / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        checkpoint.check_replaceable(trained)


def test_weights_that_are_not_finite_are_not_saved(base: Path, tmp_path: Path) -> None:
    tokenizer, model = load_for_training(base, LABELS, 16, 1, [])
    model.get_parameter("classifier.weight").data[1, 2] = torch.nan
    with pytest.raises(CheckFailed, match=r"classifier\.weight is not finite"):
        save(tmp_path / "model", model, tokenizer)
    assert not (tmp_path / "model").exists()

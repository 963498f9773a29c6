"""evaluate_model.py as a user runs it, with models in folders and on a Hub."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from goodreads.hub.model_card import split_manifest
from tests.helpers import SMALL, Result, assert_one_line_error, run_main, succeeded
from tools.loopback_hub import LoopbackHub, Token

TOKEN, REPO, PREDICTIONS = "hf_writeSECRET", "ada/genres", "predictions_local.parquet"


def results(folder: Path, name: str = "local") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "results" / f"eval_results_{name}.json").read_text())
    return document


def closing(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(succeeded(result).stdout.splitlines()[-1])
    return document


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Place:
    """A working folder with model/, data/ and results/ of the model, and a Hub that has it too."""

    def __init__(self, folder: Path, hub: LoopbackHub) -> None:
        self.folder, self.hub, self.repo = folder, hub, hub.create(REPO)

    def evaluate(self, *args: object, **env: str) -> Result:
        env = {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN} | env
        result = run_main("evaluate_model.py", *args, cwd=self.folder, env=env)
        assert "SECRET" not in result.stdout + result.stderr
        return result

    def in_image(self, *args: object, **env: str) -> Result:
        """As Dockerfile.eval's entry point does."""
        return self.evaluate("--split-from-hub", "--name", "hub", *args, **{"HF_REPO": REPO} | env)

    def edit_manifest(self, **parameters: object) -> None:
        """Publish another split manifest, with no data/ to take the split from."""
        shutil.rmtree(self.folder / "data")
        manifest = json.loads(self.repo.commits[-1].files["split_manifest.json"].content)
        manifest["parameters"] |= parameters
        self.repo.commit({"split_manifest.json": json.dumps(manifest).encode()}, "another manifest")

    def rename_labels(self, names: list[str]) -> None:
        config = json.loads((self.folder / "model/config.json").read_text())
        config |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
        (self.folder / "model/config.json").write_text(json.dumps(config))

    def edit_classifier(self, rows: list[int] | None = None, bias: float | None = None) -> None:
        """Reorder the labels of the model, or change the bias of the first."""
        tensors = load_file(path := self.folder / "model/model.safetensors")
        for name in ("classifier.weight", "classifier.bias"):
            tensors[name] = tensors[name][rows].clone() if rows else tensors[name]
        if bias is not None:
            tensors["classifier.bias"][0] = bias
        save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def place(tmp_path: Path, trained: Path, small_data: Path) -> Iterator[Place]:
    for folder in (trained / "model", trained / "results", small_data):
        shutil.copytree(folder, tmp_path / folder.name)
    with LoopbackHub({TOKEN: Token("ada")}) as hub:
        place = Place(tmp_path, hub)
        manifest = {"split_manifest.json": json.dumps(split_manifest(small_data)).encode()}
        place.repo.tags["v1"] = place.repo.commit(contents(trained / "model") | manifest, "model")
        yield place


def test_the_results_files_agree_with_the_split_and_each_other(trained: Path, small_data: Path) -> None:
    document, folder = results(trained), trained / "results"
    test, predictions = pq.read_table(small_data / "test.parquet"), pq.read_table(folder / PREDICTIONS)
    logits = [f"logit_{genre}" for genre in document["labels"]]
    assert predictions.column_names == ["review_id", "label", "prediction", *logits]
    assert predictions.select(["review_id", "label"]) == test.select(["review_id", "label"])
    found = np.stack([predictions[name].to_numpy() for name in logits], axis=1).argmax(axis=1)
    assert (found == predictions["prediction"].to_numpy()).all()
    right = found == test["label"].to_numpy()
    assert document["metrics"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert f"{right.mean():.4f}" in (folder / "classification_report_local.txt").read_text()
    assert f"{160 - right.sum()} of 160 reviews" in (folder / "errors_local.md").read_text()
    books = set(pq.read_table(small_data / "train.parquet")["book_id"].to_pylist())
    unseen = np.array([book not in books for book in test["book_id"].to_pylist()])
    subset = document["subsets"]["unseen_books"]
    assert (subset["reviews"], subset["accuracy"]["value"]) == (
        unseen.sum(),
        pytest.approx(right[unseen].mean()),
    )


def test_the_logits_are_those_of_one_review_at_a_time(trained: Path, small_data: Path) -> None:
    """Order, padding and batching change nothing; the plainest path is the reference."""
    model = AutoModelForSequenceClassification.from_pretrained(trained / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    predictions = pq.read_table(trained / "results" / PREDICTIONS).to_pylist()
    texts = pq.read_table(small_data / "test.parquet")["text"].to_pylist()
    for row, text in list(zip(predictions, texts))[::7]:
        inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**inputs).logits[0].numpy()
        np.testing.assert_allclose(list(row.values())[3:], expected, rtol=1e-4, atol=1e-5)
    whole = sum(len(ids) < 64 for ids in tokenizer(texts)["input_ids"])
    assert 0 < results(trained)["subsets"]["not_cut"]["reviews"] == whole < 160


def test_labels_are_matched_by_name_whatever_their_order_and_spelling(place: Place, trained: Path) -> None:
    order, original = [3, 0, 7, 1, 2, 6, 5, 4], results(trained)  # new id -> old id
    place.edit_classifier(order)
    slugs, numbers = [original["labels"][i] for i in order], [f"LABEL_{i}" for i in range(8)]
    human = ["History & Biography", "Children", "Young-Adult", "comics, graphic", "fantasy paranormal"]
    label_map = dict(zip(numbers, slugs))
    (place.folder / "map=1.json").write_text(json.dumps(label_map))
    pairs = ",".join(f"{name}={slug}" for name, slug in label_map.items())
    for names, arguments in (
        (slugs, ()),
        (numbers, ("--label-map", pairs)),
        (numbers, ("--label-map", "map=1.json")),
        ([*human, "romance", "POETRY", "Mystery/Thriller/Crime"], ()),
    ):
        place.rename_labels(names)
        result = succeeded(place.evaluate("--name", "mine", *arguments))
        assert "matched by name" in result.stderr
        mine = results(place.folder, "mine")
        assert [order[i] for i in mine["label_permutation"]] == list(range(8))
        assert mine["metrics"] == original["metrics"]
    place.rename_labels(numbers)
    result = place.evaluate("--name", "mine")
    assert_one_line_error(result, "LABEL_0", "poetry", "--label-map LABEL_0=children,...")


def test_results_are_replaced_only_with_force_and_never_by_what_is_not_finite(place: Place) -> None:
    before = contents(place.folder / "results")
    place.edit_classifier(bias=math.nan)
    assert_one_line_error(place.evaluate("--force"), "not finite", code=1)
    place.edit_classifier(bias=0.5)
    result = place.evaluate()
    assert_one_line_error(result, "eval_results_local.json is of another model (model, weights", "--force")
    assert "scoring" not in result.stderr
    assert contents(place.folder / "results") == before
    succeeded(place.evaluate("--force"))
    succeeded(place.evaluate())  # the same model again
    result = place.in_image()
    assert_one_line_error(result, "local and hub are DIFFERENT: the weights are not the same", code=1)
    assert json.loads(result.stdout.splitlines()[-1])["verdict"] == "DIFFERENT"


@pytest.mark.parametrize(
    ("words", "fragment"),  # options, and settings as those of a container
    [
        ("--model nothing", "nothing: no such folder; make it with: python train.py --output_dir nothing"),
        ("--revision v1", "--revision is for Hub repositories"),
        ("--name a/b", "--name 'a/b': at most 80 letters"),
        ("--data-dir nothing", "nothing/manifest.json is missing; make it with: python data_loader.py"),
        ("--results-dir /proc/results", "docs/containers.md"),
        ("--model tfidf --dtype bfloat16", "--model tfidf takes no --revision"),
        ("--split-from-hub", "HF_REPO is not set; name the repository: docker run -e HF_REPO=user/name"),
        ("--split-from-hub --model ./model", "split_manifest.json is missing"),
        ("--label-map LABEL_9=poetry", "no label 'LABEL_9' in the model's: children, comics_graphic"),
        ("--label-map children=poetry", "its labels (poetry,"),
        ("--label-map none.json", "--label-map none.json: no LABEL_0=children,... or JSON file"),
        ("HF_REPO=ada/none", "no such repository, or a private one"),
        ("HF_REPO=ada/genres HF_TOKEN=", "no such repository, or a private one"),
        ("HF_REPO=ada/genres HF_TOKEN=hf_badSECRET", "the Hub refuses the token (401)"),
        ("HF_REPO=ada/genres HF_REVISION=v9", "no such revision"),
    ],
)
def test_bad_options_and_settings_get_one_line(place: Place, words: str, fragment: str) -> None:
    env = dict(word.split("=") for word in words.split() if word.startswith("HF_"))
    arguments = [word for word in words.split() if not word.startswith("HF_")]
    assert_one_line_error(place.evaluate(*arguments, **env), fragment)


def test_the_baseline_writes_the_same_files(place: Place, trained: Path) -> None:
    first = closing(place.evaluate("--model", "tfidf"))
    assert first["name"] == first["model"] == "tfidf"
    document, files = results(place.folder, "tfidf"), set(contents(place.folder / "results"))
    assert files >= {name.replace("local", "tfidf") for name in files}
    assert set(results(trained)) - set(document) == {"label_permutation", "max_length"}
    assert list(document["subsets"]) == ["unseen_books"]
    assert document["metrics"]["accuracy"]["value"] > 0.2
    assert closing(place.evaluate("--model", "tfidf")) == first


def test_the_hub_model_is_scored_compared_and_summed_up_in_one_line(place: Place) -> None:
    result = place.in_image()
    assert (closing(result)["verdict"], closing(result)["reviews"]) == ("IDENTICAL", 160)
    assert "| Accuracy |" in result.stdout
    assert "rebuilding" not in result.stderr
    assert closing(place.in_image("--cache-dir", "cache", HF_REVISION="v1"))["verdict"] == "IDENTICAL"
    model = results(place.folder, "hub")["model"]
    assert (model["revision"], model["commit"]) == ("v1", place.repo.head)
    assert (place.folder / "cache").is_dir()
    assert closing(place.in_image("--dtype", "bfloat16", "--force"))["verdict"] == "EQUIVALENT"
    summary = closing(place.evaluate("--model", "model", HF_REPO=REPO, HF_REVISION="v9"))  # a folder wins
    assert summary["name"] == "local" and "verdict" not in summary


def test_without_the_split_it_is_rebuilt_and_without_a_local_result_nothing_is_compared(place: Place) -> None:
    path = place.folder / "data/manifest.json"
    splits = json.loads(path.read_text())["splits"]
    other = ("--source", "sample", *SMALL, "--seed", 43, "--force")
    succeeded(run_main("data_loader.py", *other, cwd=place.folder))
    # what a manifest says of the reviews is not believed
    path.write_text(json.dumps(json.loads(path.read_text()) | {"splits": splits}))
    (place.folder / "results/eval_results_local.json").unlink()
    result = place.in_image()
    assert closing(result)["verdict"] is None
    assert "data holds another split than the model's; rebuilding it from sample" in result.stderr
    assert "nothing to compare with" in result.stderr


def test_a_local_result_that_cannot_be_compared_is_found_first(place: Place) -> None:
    (place.folder / "results" / PREDICTIONS).unlink()
    assert_one_line_error(place.in_image(), "results/predictions_local.parquet is missing")
    assert not place.hub.requests


@pytest.mark.parametrize(
    ("parameters", "fragment"),
    [
        ({"source": "/etc"}, "the model's split was made from /etc, not to be read unasked; name"),
        ({"source": "http://127.0.0.1:9/"}, "made from http://127.0.0.1:9/, not to be read unasked; name"),
        ({"genres": ["../x", "poetry"]}, "split_manifest.json of the model has parameters that this version"),
        ({"unknown": 1}, "split_manifest.json of the model has parameters that this version"),
    ],
    ids=str,
)
def test_a_repository_does_not_decide_what_is_read_but_the_user_does(
    place: Place, parameters: dict[str, object], fragment: str
) -> None:
    place.edit_manifest(**parameters)
    assert_one_line_error(place.in_image(), fragment)
    if parameters == {"source": "/etc"}:
        assert closing(place.in_image("--source", "sample"))["verdict"] == "IDENTICAL"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_was_asked_for_and_is_not_there_is_said_in_a_box(place: Place) -> None:
    result = succeeded(place.evaluate(NVIDIA_VISIBLE_DEVICES="all"))
    assert "║ NO GPU, though one was asked for: NVIDIA_VISIBLE_DEVICES=all." in result.stderr

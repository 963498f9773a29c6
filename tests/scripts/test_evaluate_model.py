"""evaluate_model.py as a user runs it, with models in folders and on a Hub."""

import json
import math
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Once
from tests.helpers import (
    SMALL,
    Result,
    assert_one_line_error,
    command,
    environment,
    run_main,
    succeeded,
    temporary_files,
)
from tools.loopback_hub import LoopbackHub, Token

TOKEN, REPO = "hf_writeSECRET", "ada/genres"


def results(folder: Path, name: str = "local") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "results" / f"eval_results_{name}.json").read_text())
    return document


def closing(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(succeeded(result).stdout.splitlines()[-1])
    return document


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rename_labels(model: Path, names: list[str]) -> None:
    config = json.loads((model / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    (model / "config.json").write_text(json.dumps(config))


def edit_classifier(model: Path, rows: list[int] | None = None, bias: float | None = None) -> None:
    """Reorder the labels of a model, or change the bias of the first."""
    tensors = load_file(model / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        tensors[name] = tensors[name][rows].clone() if rows else tensors[name]
    if bias is not None:
        tensors["classifier.bias"][0] = bias
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


class Place:
    """A working folder, and maybe a Hub."""

    def __init__(self, folder: Path, data: Path | str, hub: LoopbackHub | None = None) -> None:
        self.folder, self.data, self.hub, self.env = folder, data, hub, {}
        if hub:
            self.env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_REPO": REPO}

    def evaluate(self, *args: object, **env: str) -> Result:
        arguments = ("--data-dir", self.data, *args)
        result = run_main("evaluate_model.py", *arguments, cwd=self.folder, env=self.env | env)
        assert "SECRET" not in result.stdout + result.stderr
        return result

    def in_image(self, *args: object, **env: str) -> Result:
        """As Dockerfile.eval's entry point does."""
        return self.evaluate("--split-from-hub", "--name", "hub", *args, **env)

    def fetched(self) -> list[str]:
        """Names of the files fetched since the last call."""
        assert self.hub
        gets = [r.path for r in self.hub.requests if r.method == "GET" and "/resolve/" in r.path]
        self.hub.requests.clear()
        return sorted(Path(path.partition("?")[0]).name for path in gets)

    def edit_manifest(self, **parameters: object) -> None:
        """Publish another split manifest."""
        repo = self.hub.repos[REPO] if self.hub else None
        assert repo
        manifest = json.loads(repo.commits[-1].files["split_manifest.json"].content)
        manifest["parameters"] |= parameters
        repo.commit({"split_manifest.json": json.dumps(manifest).encode()}, "another manifest")


@pytest.fixture
def local(tmp_path: Path, trained: Path, small_data: Path) -> Place:
    """A folder with a copy of the trained model."""
    shutil.copytree(trained / "model", tmp_path / "model")
    return Place(tmp_path, small_data)


@pytest.fixture(scope="session")
def published(once: Once, trained: Path, small_data: Path) -> Path:
    """A folder with model/, results/, data/ and repo/, the files of its repository; not to be changed."""

    def make(folder: Path) -> None:
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("hf", "mpl"), dirs_exist_ok=True)
        shutil.copytree(small_data, folder / "data")
        for name in ("confusion_matrix_local", "per_class_metrics_local", "training_loss"):
            (folder / "results" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\nstands for it")
        with LoopbackHub({TOKEN: Token("ada")}) as hub:
            env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
            succeeded(run_main("push_to_hub.py", "--repo", REPO, cwd=folder, env=env))
            repo = hub.repos[REPO]
            assert repo
            (folder / "repo").mkdir()
            for name, file in repo.commits[-1].files.items():
                (folder / "repo" / name).write_bytes(file.content)

    return once("published", make)


@pytest.fixture
def place(published: Path, tmp_path: Path) -> Iterator[Place]:
    """The working folder of the Hub image, on the host: results/ with the local result, and data/."""
    for name in ("results", "data"):
        shutil.copytree(published / name, tmp_path / name)
    with LoopbackHub({TOKEN: Token("ada")}) as hub:
        repo = hub.create(REPO)
        repo.tags["v1"] = repo.commit({**contents(published / "repo")}, "model")
        yield Place(tmp_path, "data", hub)


def test_the_results_files_agree_with_the_split_and_each_other(trained: Path, small_data: Path) -> None:
    document, test = results(trained), pq.read_table(small_data / "test.parquet")
    predictions = pq.read_table(trained / "results" / "predictions_local.parquet")
    logits = [f"logit_{genre}" for genre in document["labels"]]
    assert predictions.column_names == ["review_id", "label", "prediction", *logits]
    assert predictions.select(["review_id", "label"]) == test.select(["review_id", "label"])
    matrix = np.stack([predictions[name].to_numpy() for name in logits], axis=1)
    assert matrix.dtype == np.float32
    assert (matrix.argmax(axis=1) == predictions["prediction"].to_numpy()).all()
    labels = test["label"].to_numpy()
    right = matrix.argmax(axis=1) == labels
    loss = torch.nn.functional.cross_entropy(torch.tensor(matrix), torch.tensor(labels)).item()
    assert document["metrics"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert document["metrics"]["loss"]["value"] == pytest.approx(loss, rel=1e-5)
    assert np.trace(document["confusion_matrix"]) == right.sum()
    report = (trained / "results" / "classification_report_local.txt").read_text()
    assert "Mystery/Thriller/Crime" in report and f"{right.mean():.4f}" in report
    assert f"{160 - right.sum()} of 160 reviews" in (trained / "results" / "errors_local.md").read_text()
    books = set(pq.read_table(small_data / "train.parquet")["book_id"].to_pylist())
    unseen = np.array([book not in books for book in test["book_id"].to_pylist()])
    found = document["subsets"]["unseen_books"]
    assert found["reviews"] == unseen.sum()
    assert found["accuracy"]["value"] == pytest.approx(right[unseen].mean())


def test_the_logits_are_those_of_one_review_at_a_time(trained: Path, small_data: Path) -> None:
    """Order, padding and batching change nothing; the plainest path is the reference."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(trained / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    predictions = pq.read_table(trained / "results" / "predictions_local.parquet").to_pylist()
    texts = pq.read_table(small_data / "test.parquet")["text"].to_pylist()
    for row, text in list(zip(predictions, texts))[::7]:
        inputs = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**inputs).logits[0].numpy()
        np.testing.assert_allclose(list(row.values())[3:], expected, rtol=1e-4, atol=1e-5)
    whole = sum(len(ids) <= 64 for ids in tokenizer(texts)["input_ids"])
    assert 0 < results(trained)["subsets"]["not_cut"]["reviews"] == whole < 160


def test_permuted_labels_are_matched_by_name(local: Place, trained: Path) -> None:
    order, names = [3, 0, 7, 1, 2, 6, 5, 4], results(trained)["labels"]  # new id -> old id
    rename_labels(local.folder / "model", [names[i] for i in order])
    edit_classifier(local.folder / "model", order)
    assert "matched by name" in succeeded(local.evaluate()).stderr
    mine, original = results(local.folder), results(trained)
    assert [order[i] for i in mine["label_permutation"]] == list(range(8))
    assert mine["metrics"] == original["metrics"]
    assert mine["confusion_matrix"] == original["confusion_matrix"]


def test_a_label_map_scores_a_model_with_other_label_names(local: Place, trained: Path) -> None:
    original, names = results(trained), [f"LABEL_{i}" for i in range(8)]
    rename_labels(local.folder / "model", names)
    assert_one_line_error(local.evaluate(), "LABEL_0", "poetry", "--label-map LABEL_0=children,...")
    assert not (local.folder / "results").exists()
    label_map = dict(zip(names, original["labels"]))
    (local.folder / "map=1.json").write_text(json.dumps(label_map))
    for text in (",".join(f"{name}={slug}" for name, slug in label_map.items()), "map=1.json"):
        succeeded(local.evaluate("--label-map", text))
        assert results(local.folder)["metrics"] == original["metrics"]
    human = "Children|Comics & Graphic|fantasy, paranormal|History & Biography|Mystery/Thriller/Crime"
    rename_labels(local.folder / "model", [*human.split("|"), "POETRY", "romance", "Young-Adult"])
    succeeded(local.evaluate())
    assert results(local.folder)["metrics"] == original["metrics"]


def test_a_model_that_is_not_finite_leaves_the_results_untouched(local: Place, trained: Path) -> None:
    folder = Path(shutil.copytree(trained / "results", local.folder / "results"))
    edit_classifier(local.folder / "model", bias=math.nan)
    before = contents(folder)
    assert_one_line_error(local.evaluate("--force"), "not finite", code=1)
    assert contents(folder) == before


def test_another_model_replaces_results_only_with_force(local: Place, trained: Path) -> None:
    folder = Path(shutil.copytree(trained / "results", local.folder / "results"))
    edit_classifier(local.folder / "model", bias=0.5)
    before, result = contents(folder), local.evaluate()
    assert_one_line_error(result, "eval_results_local.json is of another model (model, weights", "--force")
    assert "scoring" not in result.stderr
    assert contents(folder) == before
    succeeded(local.evaluate("--force"))
    assert results(local.folder)["model"] != results(trained)["model"]
    succeeded(local.evaluate())  # the same model again


@pytest.mark.parametrize("left", [0, 1000])
def test_a_model_that_is_not_whole_gets_one_line(local: Place, left: int) -> None:
    weights = local.folder / "model" / "model.safetensors"
    content = weights.read_bytes()[:left]
    weights.unlink()
    if left:
        weights.write_bytes(content)
    assert_one_line_error(local.evaluate(), "model.safetensors")
    assert not (local.folder / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (
            "--model nothing",
            "--model nothing: no such folder; make it with: python train.py --output_dir nothing",
        ),
        ("--model a/b/c", "--model a/b/c: no such folder"),
        ("--revision v1", "--revision is for Hub repositories"),
        ("--name a/b", "--name 'a/b': at most 80 letters"),
        ("--data-dir nothing", "nothing/manifest.json is missing; make it with: python data_loader.py"),
        ("--dtype int4", "invalid choice: 'int4'"),
        ("--results-dir model/config.json", "cannot write model/config.json"),
        ("--model tfidf --dtype bfloat16", "--model tfidf takes no --revision"),
        ("--source sample", "--source goes with --split-from-hub"),
        ("--split-from-hub", "HF_REPO is not set; name the repository: docker run -e HF_REPO=user/name"),
        ("--split-from-hub --model model", "split_manifest.json is missing"),
        ("--mode x", "did you mean --model?"),
        ("--label-map LABEL_9=poetry", "no label 'LABEL_9' in the model's: children, comics_graphic"),
        ("--label-map children=poetry", "its labels (poetry,"),
        ("--label-map children=", "its labels ("),
        ("--label-map none.json", "--label-map none.json cannot be read"),
        ("--label-map .", "--label-map . cannot be read"),
    ],
)
def test_bad_options_get_one_line(local: Place, arguments: str, fragment: str) -> None:
    assert_one_line_error(local.evaluate(*arguments.split()), fragment)


def test_bfloat16_scores_nearly_the_same(local: Place, trained: Path) -> None:
    succeeded(local.evaluate("--dtype", "bfloat16", "--name", "bf16"))
    mine, original = results(local.folder, "bf16"), results(trained)
    assert mine["dtype"] == "bfloat16"
    assert mine["metrics"]["loss"]["value"] == pytest.approx(original["metrics"]["loss"]["value"], abs=0.02)


def test_the_baseline_writes_the_same_files(local: Place, trained: Path) -> None:
    first = closing(local.evaluate("--model", "tfidf"))
    assert first["name"] == first["model"] == "tfidf"
    document = results(local.folder, "tfidf")
    written = {path.name for path in (local.folder / "results").glob("*_*")}
    assert written == {p.name.replace("local", "tfidf") for p in (trained / "results").glob("*_local.*")}
    assert set(results(trained)) - set(document) == {"label_permutation", "max_length"}
    assert document["subsets"]["not_cut"] is None
    assert document["subsets"]["unseen_books"]["reviews"] > 0
    again = closing(local.evaluate("--model", "tfidf"))
    assert again | {"reviews_per_second": 0} == first | {"reviews_per_second": 0}


def test_the_hub_model_is_scored_compared_and_summed_up_in_one_line(place: Place) -> None:
    result = place.in_image()
    assert (closing(result)["verdict"], closing(result)["reviews"]) == ("IDENTICAL", 160)
    assert "| Accuracy |" in result.stdout
    assert "rebuilding" not in result.stderr
    assert closing(place.in_image(HF_REVISION="v1"))["verdict"] == "IDENTICAL"
    model, repo = results(place.folder, "hub")["model"], place.hub and place.hub.repos[REPO]
    assert repo and (model["revision"], model["commit"]) == ("v1", repo.head)
    assert not temporary_files(place.folder)


def test_a_folder_on_the_command_line_wins_over_the_environment(place: Place, published: Path) -> None:
    summary = closing(place.evaluate("--model", published / "model", HF_REVISION="v9"))
    assert summary["name"] == "local"
    assert "verdict" not in summary


def test_without_the_split_it_is_rebuilt_and_without_a_local_result_nothing_is_compared(place: Place) -> None:
    right = json.loads((place.folder / "data/manifest.json").read_text())
    shutil.rmtree(place.folder / "data")
    other = ("--source", "sample", *SMALL, "--seed", 43)
    succeeded(run_main("data_loader.py", *other, cwd=place.folder))
    manifest = json.loads((place.folder / "data/manifest.json").read_text())
    manifest["splits"] = right["splits"]  # what a manifest says of the reviews is not believed
    (place.folder / "data/manifest.json").write_text(json.dumps(manifest))
    (place.folder / "results/eval_results_local.json").unlink()
    result = place.in_image()
    assert closing(result)["verdict"] is None
    assert "data holds another split than the model's; rebuilding it from sample" in result.stderr
    assert "nothing to compare with" in result.stderr


def test_other_weights_end_with_status_1_and_the_verdict(place: Place, published: Path) -> None:
    edit_classifier(Path(shutil.copytree(published / "model", place.folder / "other")), bias=1.0)
    succeeded(place.evaluate("--model", "other", "--force"))
    result = place.in_image()
    assert_one_line_error(result, "local and hub are DIFFERENT: the weights are not the same", code=1)
    assert json.loads(result.stdout.splitlines()[-1])["verdict"] == "DIFFERENT"


def test_a_local_result_that_cannot_be_compared_is_found_first(place: Place) -> None:
    (place.folder / "results/predictions_local.parquet").unlink()
    assert_one_line_error(
        place.in_image(), "results/predictions_local.parquet is missing", "--results-dir results"
    )
    assert place.fetched() == []


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("HF_REPO", " ", "HF_REPO is not set; name the repository: docker run -e HF_REPO=user/name"),
        ("HF_REPO", "genres", "--model genres: no such folder"),
        ("HF_REPO", "ada/none", "no such repository, or a private one"),
        ("HF_TOKEN", "", "no such repository, or a private one"),
        ("HF_TOKEN", "hf_badSECRET", "the Hub refuses the token (401)"),
        ("HF_REVISION", "v9", "no such revision"),
    ],
)
def test_a_wrong_setting_of_the_container_gets_one_line(
    place: Place, name: str, value: str, fragment: str
) -> None:
    assert_one_line_error(place.in_image(**{name: value}), fragment)
    assert not (place.folder / "results/eval_results_hub.json").exists()


@pytest.mark.parametrize("source", ["/etc", "../other", "http://127.0.0.1:9/", "ftp://example.org/"])
def test_a_repository_does_not_decide_what_is_read_but_the_user_does(place: Place, source: str) -> None:
    shutil.rmtree(place.folder / "data")
    place.edit_manifest(source=source)
    refused = f"the model's split was made from {source}"
    assert_one_line_error(place.in_image(), refused, "--data-dir", "--source")
    if source == "/etc":
        assert closing(place.in_image("--source", "sample"))["verdict"] == "IDENTICAL"


@pytest.mark.parametrize(
    "parameters", [{"genres": ["../x", "poetry"]}, {"head": "x"}, {"unknown": 1}], ids=str
)
def test_a_damaged_manifest_of_a_repository_gets_one_line(
    place: Place, parameters: dict[str, object]
) -> None:
    shutil.rmtree(place.folder / "data")
    place.edit_manifest(**parameters)
    assert_one_line_error(place.in_image(), "split_manifest.json of the model cannot be used")


def test_a_kept_model_is_used_again_by_hash(place: Place) -> None:
    succeeded(place.evaluate("--cache-dir", "cache"))
    assert "model.safetensors" in place.fetched()
    succeeded(place.evaluate("--cache-dir", "cache"))
    assert place.fetched() == []
    (weights,) = (path for path in (place.folder / "cache").rglob("model.safetensors") if path.is_file())
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    assert closing(place.in_image("--cache-dir", "cache"))["verdict"] == "IDENTICAL"
    assert "model.safetensors" in place.fetched()


def test_a_results_folder_that_cannot_be_written_is_found_first(place: Place) -> None:
    result = place.evaluate("--results-dir", "/proc/results")
    assert_one_line_error(result, "cannot write /proc/results: ", "docs/containers.md")
    assert place.fetched() == []


def test_sigterm_ends_an_evaluation_within_two_seconds(local: Place) -> None:
    arguments, env = command("evaluate_model.py", "--data-dir", local.data), environment(local.folder)
    with subprocess.Popen(arguments, cwd=local.folder, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr and "evaluating model" in process.stderr.readline()
        time.sleep(0.3)  # in the middle of the imports
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        assert process.stderr.read() == "evaluate_model.py: error: stopped by SIGTERM\n"
        assert process.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - sent < 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("devices", "loud"), [("all", True), ("void", False)])
def test_a_gpu_that_was_asked_for_and_is_not_there_is_said_in_a_box(
    local: Place, devices: str, loud: bool
) -> None:
    result = succeeded(local.evaluate(NVIDIA_VISIBLE_DEVICES=devices))
    assert ("║ NO GPU, though one was asked for: NVIDIA_VISIBLE_DEVICES=all." in result.stderr) is loud

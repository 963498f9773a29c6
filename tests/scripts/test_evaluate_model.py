"""evaluate_model.py as a user runs it, with models in folders and on a Hub."""

import json
import math
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
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
FILES = ("classification_report_{}.txt", "errors_{}.md", "eval_results_{}.json", "predictions_{}.parquet")


def results(folder: Path, name: str = "local") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / f"eval_results_{name}.json").read_text())
    return document


def closing(result: Result) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return document


def copy_of(trained: Path, folder: Path) -> Path:
    return Path(shutil.copytree(trained / "model", folder / "model"))


def rename_labels(model: Path, names: list[str]) -> None:
    config = json.loads((model / "config.json").read_text())
    config |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    (model / "config.json").write_text(json.dumps(config))


def edit_weights(model: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})


def set_bias(value: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["classifier.bias"][0] = value

    return change


def test_the_results_files_agree_with_the_split_and_each_other(trained: Path, small_data: Path) -> None:
    document = results(trained / "results")
    test = pq.read_table(small_data / "test.parquet")
    predictions = pq.read_table(trained / "results" / "predictions_local.parquet")
    logits = [f"logit_{genre}" for genre in document["labels"]]
    assert predictions.column_names == ["review_id", "label", "prediction", *logits]
    assert predictions["review_id"] == test["review_id"]
    assert predictions["label"] == test["label"]
    matrix = np.stack([predictions[name].to_numpy() for name in logits], axis=1)
    assert matrix.dtype == np.float32
    assert (matrix.argmax(axis=1) == predictions["prediction"].to_numpy()).all()
    labels = test["label"].to_numpy()
    right = matrix.argmax(axis=1) == labels
    assert document["metrics"]["accuracy"]["value"] == pytest.approx(right.mean())
    loss = torch.nn.functional.cross_entropy(torch.tensor(matrix), torch.tensor(labels)).item()
    assert document["metrics"]["loss"]["value"] == pytest.approx(loss, rel=1e-5)
    assert np.diag(document["confusion_matrix"]).sum() == right.sum()
    report = (trained / "results" / "classification_report_local.txt").read_text()
    assert "Mystery/Thriller/Crime" in report
    assert f"{right.mean():.4f}" in report
    assert f"{160 - right.sum()} of 160 reviews" in (trained / "results" / "errors_local.md").read_text()
    books = set(pq.read_table(small_data / "train.parquet")["book_id"].to_pylist())
    unseen = np.array([book not in books for book in test["book_id"].to_pylist()])
    found = document["subsets"]["unseen_books"]
    assert (found["reviews"], found["accuracy"]["value"]) == (
        unseen.sum(),
        pytest.approx(right[unseen].mean()),
    )
    assert 0 < document["subsets"]["not_cut"]["reviews"] < 160


def test_the_logits_are_those_of_one_review_at_a_time(trained: Path, small_data: Path) -> None:
    """Order, padding and batching change nothing; the plainest path is the reference."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(trained / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    predictions = pq.read_table(trained / "results" / "predictions_local.parquet").to_pylist()
    texts = pq.read_table(small_data / "test.parquet")["text"].to_pylist()
    whole = 0
    for i in range(160):
        whole += len(tokenizer(texts[i])["input_ids"]) <= 64
        if i % 7:
            continue
        inputs = tokenizer(texts[i], truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**inputs).logits[0].numpy()
        found = [v for k, v in predictions[i].items() if k.startswith("logit_")]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert results(trained / "results")["subsets"]["not_cut"]["reviews"] == whole


def test_permuted_labels_are_matched_by_name(tmp_path: Path, trained: Path, small_data: Path) -> None:
    model = copy_of(trained, tmp_path)
    order = [3, 0, 7, 1, 2, 6, 5, 4]  # new id -> old id
    names = results(trained / "results")["labels"]
    rename_labels(model, [names[i] for i in order])

    def permute(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("classifier.weight", "classifier.bias"):
            tensors[name] = tensors[name][order].clone()

    edit_weights(model, permute)
    result = succeeded(run_main("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path))
    assert "matched by name" in result.stderr
    mine, original = results(tmp_path / "results"), results(trained / "results")
    assert [order[i] for i in mine["label_permutation"]] == list(range(8))
    assert mine["metrics"] == original["metrics"]
    assert mine["confusion_matrix"] == original["confusion_matrix"]


@pytest.mark.parametrize("kind", ["pairs", "file", "human names"])
def test_a_label_map_scores_a_model_with_other_label_names(
    tmp_path: Path, trained: Path, small_data: Path, kind: str
) -> None:
    original, model = results(trained / "results"), copy_of(trained, tmp_path)
    slugs, names = original["labels"], [f"LABEL_{i}" for i in range(8)]
    rename_labels(model, names)
    arguments = ("--data-dir", small_data, "--name", "mapped")
    result = run_main("evaluate_model.py", *arguments, cwd=tmp_path)
    assert_one_line_error(result, "LABEL_0", "poetry", "--label-map LABEL_0=children,...")
    assert not (tmp_path / "results").exists()
    extra: tuple[str, ...] = ("--label-map", ",".join(f"{n}={s}" for n, s in zip(names, slugs)))
    if kind == "file":
        (tmp_path / "map=1.json").write_text(json.dumps(dict(zip(names, slugs))))
        extra = ("--label-map", "map=1.json")
    elif kind == "human names":
        human = "Children|Comics & Graphic|fantasy, paranormal|History and Biography|Mystery/Thriller/Crime"
        rename_labels(model, [*human.replace("and", "&").split("|"), "POETRY", "romance", "Young-Adult"])
        extra = ()
    succeeded(run_main("evaluate_model.py", *arguments, *extra, cwd=tmp_path))
    assert results(tmp_path / "results", "mapped")["metrics"] == original["metrics"]


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("LABEL_9=poetry", "no label 'LABEL_9' in the model's: children, comics_graphic"),
        ("children=poetry", "its labels (poetry,"),
        ("none.json", "--label-map none.json cannot be read"),
        ("children=", "its labels ("),
        (".", "--label-map . cannot be read"),
    ],
)
def test_a_wrong_label_map_gets_one_line(
    tmp_path: Path, trained: Path, small_data: Path, text: str, fragment: str
) -> None:
    arguments = ("--model", trained / "model", "--data-dir", small_data, "--label-map", text)
    assert_one_line_error(run_main("evaluate_model.py", *arguments, cwd=tmp_path), fragment)


def test_a_model_that_is_not_finite_leaves_the_results_untouched(
    tmp_path: Path, trained: Path, small_data: Path
) -> None:
    shutil.copytree(trained / "results", tmp_path / "results")
    edit_weights(copy_of(trained, tmp_path), set_bias(math.nan))
    before = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    result = run_main("evaluate_model.py", "--data-dir", small_data, "--force", cwd=tmp_path)
    assert_one_line_error(result, "not finite", code=1)
    assert {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()} == before


def test_another_model_replaces_results_only_with_force(
    tmp_path: Path, trained: Path, small_data: Path
) -> None:
    shutil.copytree(trained / "results", tmp_path / "results")
    before = results(tmp_path / "results")
    edit_weights(copy_of(trained, tmp_path), set_bias(0.5))
    result = run_main("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path)
    assert_one_line_error(result, "eval_results_local.json is of another model (model, weights", "--force")
    assert "scoring" not in result.stderr
    assert results(tmp_path / "results") == before
    succeeded(run_main("evaluate_model.py", "--data-dir", small_data, "--force", cwd=tmp_path))
    assert results(tmp_path / "results")["model"] != before["model"]
    succeeded(run_main("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path))  # the same model again


@pytest.mark.parametrize("left", [0, 1000])
def test_a_model_that_is_not_whole_gets_one_line(
    tmp_path: Path, trained: Path, small_data: Path, left: int
) -> None:
    weights = copy_of(trained, tmp_path) / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if left:
        weights.write_bytes(content[:left])
    result = run_main("evaluate_model.py", "--data-dir", small_data, cwd=tmp_path)
    assert_one_line_error(result, "model.safetensors")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (
            ("--model", "nothing"),
            "--model nothing: no such folder; make it with: python train.py --output_dir nothing",
        ),
        (("--model", "a/b/c"), "--model a/b/c: no such folder"),
        (("--revision", "v1"), "--revision is for Hub repositories"),
        (("--name", "a/b"), "--name 'a/b': at most 80 letters"),
        (("--data-dir", "nothing"), "nothing/manifest.json is missing; make it with: python data_loader.py"),
        (("--dtype", "int4"), "invalid choice: 'int4'"),
        (("--results-dir", "model/config.json"), "cannot write model/config.json"),
        (("--results-dir", "/proc/results"), "cannot write /proc/results: "),
        (("--model", "tfidf", "--dtype", "bfloat16"), "--model tfidf takes no --revision"),
        (("--source", "sample"), "--source goes with --split-from-hub"),
        (("--split-from-hub",), "HF_REPO is not set; name the repository: docker run -e HF_REPO=user/name"),
        (("--split-from-hub", "--model", "model"), "split_manifest.json is missing"),
        (("--mode", "x"), "did you mean --model?"),
    ],
)
def test_bad_options_get_one_line(
    tmp_path: Path, trained: Path, small_data: Path, arguments: tuple[str, ...], fragment: str
) -> None:
    copy_of(trained, tmp_path)
    result = run_main("evaluate_model.py", "--data-dir", small_data, *arguments, cwd=tmp_path)
    assert_one_line_error(result, fragment)


def test_bfloat16_scores_nearly_the_same(tmp_path: Path, trained: Path, small_data: Path) -> None:
    arguments = ("--data-dir", small_data, "--dtype", "bfloat16", "--name", "bf16")
    copy_of(trained, tmp_path)
    succeeded(run_main("evaluate_model.py", *arguments, cwd=tmp_path))
    mine, original = results(tmp_path / "results", "bf16"), results(trained / "results")
    assert mine["dtype"] == "bfloat16"
    assert mine["metrics"]["loss"]["value"] == pytest.approx(original["metrics"]["loss"]["value"], abs=0.02)


def test_the_baseline_writes_the_same_files(tmp_path: Path, trained: Path, small_data: Path) -> None:
    arguments = ("--model", "tfidf", "--data-dir", small_data)
    first = closing(succeeded(run_main("evaluate_model.py", *arguments, cwd=tmp_path)))
    assert first["name"] == first["model"] == "tfidf"
    document = results(tmp_path / "results", "tfidf")
    assert {path.name for path in (tmp_path / "results").glob("*_*")} == {
        name.format("tfidf") for name in FILES
    }
    assert set(results(trained / "results")) - set(document) == {"label_permutation", "max_length"}
    assert document["subsets"]["not_cut"] is None
    assert document["subsets"]["unseen_books"]["reviews"] > 0
    again = closing(succeeded(run_main("evaluate_model.py", *arguments, cwd=tmp_path)))
    assert {k: v for k, v in again.items() if k != "reviews_per_second"} == {
        k: v for k, v in first.items() if k != "reviews_per_second"
    }


class Place:
    """The working folder of the Hub image, on the host: results/ with the local result, and data/."""

    def __init__(self, folder: Path, hub: LoopbackHub) -> None:
        self.folder, self.hub = folder, hub

    def settings(self, **extra: str) -> dict[str, str]:
        return {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN, "HF_REPO": REPO} | extra

    def run(self, *args: object, **extra: str) -> Result:
        """As Dockerfile.eval's entry point does."""
        return self.evaluate("--split-from-hub", "--name", "hub", *args, **extra)

    def evaluate(self, *args: object, **extra: str) -> Result:
        result = run_main("evaluate_model.py", *args, cwd=self.folder, env=self.settings(**extra))
        assert "SECRET" not in result.stdout + result.stderr
        return result

    def fetched(self) -> list[str]:
        """Names of the files fetched since the last call."""
        gets = [r.path for r in self.hub.requests if r.method == "GET" and "/resolve/" in r.path]
        self.hub.requests.clear()
        return sorted(Path(path.partition("?")[0]).name for path in gets)

    def edit_manifest(self, **parameters: object) -> None:
        """Publish another split manifest."""
        repo = self.hub.repo(REPO)
        assert repo
        manifest = json.loads(repo.commits[-1].files["split_manifest.json"].content)
        manifest["parameters"] |= parameters
        repo.commit({"split_manifest.json": json.dumps(manifest).encode()}, "another manifest")


@pytest.fixture(scope="session")
def published(once: Once, trained: Path, small_data: Path) -> Path:
    """A folder with model/, results/, data/ and repo/, the files of its repository; not to be changed."""

    def make(folder: Path) -> None:
        shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("hf", "mpl"), dirs_exist_ok=True)
        shutil.copytree(small_data, folder / "data")
        (folder / "results" / "confusion_matrix_local.png").write_bytes(b"\x89PNG\r\n\x1a\nstands for it")
        with LoopbackHub(folder / "hub", {TOKEN: Token("ada")}) as hub:
            env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
            succeeded(run_main("push_to_hub.py", "--repo", REPO, cwd=folder, env=env))
            repo = hub.repo(REPO)
            assert repo
            (folder / "repo").mkdir()
            for name, file in repo.commits[-1].files.items():
                (folder / "repo" / name).write_bytes(file.content)

    return once("published", make)


@pytest.fixture
def place(published: Path, tmp_path: Path) -> Iterator[Place]:
    for name in ("results", "data"):
        shutil.copytree(published / name, tmp_path / name)
    with LoopbackHub(tmp_path / "hub", {TOKEN: Token("ada")}) as hub:
        repo = hub.create(REPO)
        repo.tags["v1"] = repo.commit(
            {path.name: path.read_bytes() for path in (published / "repo").iterdir()}, "model"
        )
        yield Place(tmp_path, hub)


def test_the_hub_model_is_scored_compared_and_summed_up_in_one_line(place: Place) -> None:
    result = succeeded(place.run())
    assert closing(result)["verdict"] == "IDENTICAL"
    assert closing(result)["reviews"] == 160
    assert "| Accuracy |" in result.stdout
    assert "rebuilding" not in result.stderr
    repo = place.hub.repo(REPO)
    assert repo
    assert results(place.folder / "results", "hub")["model"]["commit"] == repo.head
    again = succeeded(place.run(HF_REVISION="v1"))
    assert closing(again)["verdict"] == "IDENTICAL"
    assert results(place.folder / "results", "hub")["model"]["revision"] == "v1"
    assert not temporary_files(place.folder)


def test_a_folder_on_the_command_line_wins_over_the_environment(place: Place, published: Path) -> None:
    arguments = ("--model", published / "model", "--data-dir", published / "data")
    result = succeeded(place.evaluate(*arguments, HF_REVISION="v9"))
    assert closing(result)["name"] == "local"
    assert "verdict" not in closing(result)


def test_without_the_split_it_is_rebuilt_and_without_a_local_result_nothing_is_compared(place: Place) -> None:
    other = ("--source", "sample", *SMALL, "--seed", 43, "--output-dir", "other")
    succeeded(run_main("data_loader.py", *other, cwd=place.folder))
    manifest = json.loads((place.folder / "other/manifest.json").read_text())
    right = json.loads((place.folder / "data/manifest.json").read_text())
    manifest["splits"] = right["splits"]  # what a manifest says of the reviews is not believed
    shutil.rmtree(place.folder / "data")
    (place.folder / "other").rename(place.folder / "data")
    (place.folder / "data/manifest.json").write_text(json.dumps(manifest))
    (place.folder / "results/eval_results_local.json").unlink()
    result = succeeded(place.run())
    assert "data holds another split than the model's; rebuilding it from sample" in result.stderr
    assert closing(result)["verdict"] is None
    assert "nothing to compare with" in result.stderr


def test_other_weights_end_with_status_1_and_the_verdict(place: Place, published: Path) -> None:
    model = shutil.copytree(published / "model", place.folder / "other")
    edit_weights(model, set_bias(1.0))
    succeeded(place.evaluate("--model", "other", "--force"))
    result = place.run()
    assert_one_line_error(result, "local and hub are DIFFERENT: the weights are not the same", code=1)
    assert closing(result)["verdict"] == "DIFFERENT"


def test_a_local_result_that_cannot_be_compared_is_found_first(place: Place) -> None:
    (place.folder / "results/predictions_local.parquet").unlink()
    result = place.run()
    assert_one_line_error(result, "results/predictions_local.parquet is missing", "--results-dir results")
    assert place.fetched() == []


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"HF_REPO": " "}, "HF_REPO is not set; name the repository: docker run -e HF_REPO=user/name"),
        ({"HF_REPO": "genres"}, "--model genres: no such folder"),
        ({"HF_REPO": "ada/none"}, "no such repository, or a private one"),
        ({"HF_TOKEN": ""}, "no such repository, or a private one"),
        ({"HF_TOKEN": "hf_badSECRET"}, "the Hub refuses the token (401)"),
        ({"HF_REVISION": "v9"}, "no such revision"),
    ],
    ids=lambda value: "=".join(*value.items()) if isinstance(value, dict) else "",
)
def test_a_wrong_setting_of_the_container_gets_one_line(
    place: Place, settings: dict[str, str], fragment: str
) -> None:
    assert_one_line_error(place.run(**settings), fragment)
    assert not (place.folder / "results/eval_results_hub.json").exists()


@pytest.mark.parametrize(
    "source", ["/etc", "../other", "http://127.0.0.1:9/", "file:///etc", "ftp://example.org/"]
)
def test_a_repository_does_not_decide_what_is_read(place: Place, source: str) -> None:
    shutil.rmtree(place.folder / "data")
    place.edit_manifest(source=source)
    result = place.run()
    assert_one_line_error(result, f"the model's split was made from {source}", "--data-dir", "--source")


def test_the_user_may_name_the_source(place: Place) -> None:
    shutil.rmtree(place.folder / "data")
    place.edit_manifest(source="/nowhere")
    assert closing(succeeded(place.run("--source", "sample")))["verdict"] == "IDENTICAL"


@pytest.mark.parametrize(
    "parameters",
    [{"genres": ["../x", "poetry"]}, {"genres": 5}, {"head": "x"}, {"seed": None}, {"unknown": 1}],
    ids=str,
)
def test_a_damaged_manifest_of_a_repository_gets_one_line(
    place: Place, parameters: dict[str, object]
) -> None:
    shutil.rmtree(place.folder / "data")
    place.edit_manifest(**parameters)
    assert_one_line_error(place.run(), "split_manifest.json of the model cannot be used")


def test_a_kept_model_is_used_again_by_hash(place: Place) -> None:
    succeeded(place.evaluate("--cache-dir", "cache"))
    assert "model.safetensors" in place.fetched()
    succeeded(place.evaluate("--cache-dir", "cache"))
    assert place.fetched() == []
    (weights,) = (path for path in (place.folder / "cache").rglob("model.safetensors") if path.is_file())
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.resolve().write_bytes(content)
    result = succeeded(place.run("--cache-dir", "cache"))
    assert "model.safetensors" in place.fetched()
    assert closing(result)["verdict"] == "IDENTICAL"


def test_a_results_folder_that_cannot_be_written_is_found_first(place: Place) -> None:
    result = place.evaluate("--results-dir", "/proc/results")
    assert_one_line_error(result, "cannot write /proc/results: ", "docs/containers.md")
    assert place.fetched() == []


def test_sigterm_ends_an_evaluation_within_two_seconds(
    tmp_path: Path, trained: Path, small_data: Path
) -> None:
    copy_of(trained, tmp_path)
    arguments = command("evaluate_model.py", "--data-dir", small_data)
    env = environment(tmp_path)
    with subprocess.Popen(arguments, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert "evaluating model" in process.stderr.readline()
        time.sleep(0.3)  # in the middle of the imports
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        assert process.stderr.read() == "evaluate_model.py: error: stopped by SIGTERM\n"
        assert process.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - sent < 2


def test_a_gpu_that_was_asked_for_and_is_not_there_is_said_in_a_box(
    tmp_path: Path, trained: Path, small_data: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for devices, loud in (("all", True), ("void", False)):
        env = {"NVIDIA_VISIBLE_DEVICES": devices}
        arguments = ("--model", trained / "model", "--data-dir", small_data)
        result = succeeded(run_main("evaluate_model.py", *arguments, cwd=tmp_path, env=env))
        assert ("║ NO GPU, though one was asked for: NVIDIA_VISIBLE_DEVICES=all." in result.stderr) is loud

"""What the images run, without an image: the entry point, the model cache, SIGTERM, folders."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from tests.conftest import SMALL
from tests.helpers import ROOT, assert_one_line_error, command, environment, run_script, succeeded
from tools.loopback_hub import LoopbackHub, Token

TOKEN, REPO = "hf_writeSECRET", "ada/genres"
ENTRY = [sys.executable, "-m", "goodreads.evaluation.container"]
BIG = (
    "import sys; from goodreads.data import split_store as splits\n"
    "from goodreads.model.checkpoint import save\n"
    "from transformers import AutoModelForSequenceClassification as Auto, AutoTokenizer, DistilBertConfig\n"
    "names = splits.read_manifest(splits.Path(sys.argv[2]))['labels']\n"
    "labels = {'id2label': dict(enumerate(names)), 'label2id': {n: i for i, n in enumerate(names)}}\n"
    "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
    "save(splits.Path('model'), Auto.from_config(DistilBertConfig(**labels)), tokenizer)\n"
)


class Place:
    """The working folder of the image, on the host: results/ with the local result, and data/."""

    def __init__(self, folder: Path, hub: LoopbackHub) -> None:
        self.folder, self.hub = folder, hub

    def environment(self, **extra: str) -> dict[str, str]:
        own = {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN, "HF_REPO": REPO, "HF_HUB_DISABLE_XET": "1"}
        return environment(self.folder, PYTHONPATH=str(ROOT), **(own | extra))

    def run(self, *args: str, **extra: str) -> subprocess.CompletedProcess[str]:
        env = self.environment(**extra)
        result = subprocess.run([*ENTRY, *args], cwd=self.folder, env=env, capture_output=True, text=True)
        assert "SECRET" not in result.stdout + result.stderr
        return result

    def fetched(self) -> list[str]:
        """Names of the files fetched since the last call."""
        gets = [r.path for r in self.hub.requests if r.method == "GET" and "/resolve/" in r.path]
        self.hub.requests.clear()
        return sorted(Path(path.partition("?")[0]).name for path in gets)

    def evaluate(self, *args: object) -> subprocess.CompletedProcess[str]:
        names = ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_DISABLE_XET")
        env = {name: self.environment()[name] for name in names}
        return run_script("evaluate_model.py", "--model", REPO, *args, cwd=self.folder, env=env)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, trained: Path, small_data: Path) -> Path:
    """A folder with model/, results/, data/ and hub/, which holds the model; not to be changed."""
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("hf", "mpl"), dirs_exist_ok=True)
    shutil.copytree(small_data, folder / "data")
    (folder / "results" / "confusion_matrix_local.png").write_bytes(b"\x89PNG\r\n\x1a\nstands for it")
    with LoopbackHub(folder / "hub", {TOKEN: Token("ada")}) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        succeeded(run_script("push_to_hub.py", "--repo", REPO, cwd=folder, env=env))
    return folder


@pytest.fixture
def place(published: Path, tmp_path: Path) -> Iterator[Place]:
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "model")
    with LoopbackHub(tmp_path / "hub", {TOKEN: Token("ada")}) as hub:
        yield Place(tmp_path, hub)


def closing(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return document


def test_the_hub_model_is_scored_compared_and_summed_up_in_one_line(place: Place) -> None:
    result = succeeded(place.run())
    assert closing(result)["verdict"] == "IDENTICAL"
    assert closing(result)["reviews"] == 160
    assert "| Accuracy |" in result.stdout
    assert "rebuilding" not in result.stderr
    commit = place.hub.repo(REPO)
    assert commit
    assert json.loads((place.folder / "results/eval_results_hub.json").read_text())["model"]["commit"] == (
        commit.head
    )
    again = succeeded(place.run(HF_REVISION=next(iter(commit.tags))))
    assert closing(again)["verdict"] == "IDENTICAL"


def test_without_the_split_it_is_rebuilt_and_without_a_local_result_nothing_is_compared(place: Place) -> None:
    other = ("--source", "sample", *SMALL, "--seed", 43, "--output-dir", "other")
    succeeded(run_script("data_loader.py", *other, cwd=place.folder))
    manifest = json.loads((place.folder / "other/manifest.json").read_text())
    right = json.loads((place.folder / "data/manifest.json").read_text())
    manifest["splits"] = right["splits"]  # what a manifest says of the reviews is not believed
    shutil.rmtree(place.folder / "data")
    (place.folder / "other").rename(place.folder / "data")
    (place.folder / "data/manifest.json").write_text(json.dumps(manifest))
    result = succeeded(place.run())
    assert "data holds another split than the model's; rebuilding it from sample" in result.stderr
    assert closing(result)["verdict"] == "IDENTICAL"
    shutil.rmtree(place.folder / "data")
    (place.folder / "results/eval_results_local.json").unlink()
    result = succeeded(place.run())
    assert closing(result)["verdict"] is None
    assert "nothing to compare with" in result.stderr


def test_other_weights_end_with_status_1_and_the_verdict(place: Place, published: Path) -> None:
    model = shutil.copytree(published / "model", place.folder / "other")
    tensors = load_file(model / "model.safetensors")
    tensors["classifier.bias"] = tensors["classifier.bias"] + 1
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    succeeded(run_script("evaluate_model.py", "--model", "other", cwd=place.folder))
    result = place.run()
    assert result.returncode == 1
    assert closing(result)["verdict"] == "DIFFERENT"
    assert "the weights are not the same" in result.stderr


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"HF_REPO": ""}, "HF_REPO is not set; name the repository: docker run -e HF_REPO=user/name"),
        ({"HF_REPO": "genres"}, "HF_REPO=genres is not of the form user/name"),
        ({"HF_REPO": "ada/none"}, "no such repository, or a private one"),
        ({"HF_TOKEN": ""}, "no such repository, or a private one"),
        ({"HF_TOKEN": "hf_badSECRET"}, "the Hub refuses the token (401)"),
        ({"HF_TOKEN_FILE": "/run/secrets/none"}, "HF_TOKEN_FILE=/run/secrets/none cannot be read"),
        ({"HF_REVISION": "v9"}, "no such revision"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the Hub at http://127.0.0.1:9 cannot be reached"),
    ],
    ids=lambda value: "=".join(*value.items()) if isinstance(value, dict) else "",
)
def test_what_a_stranger_gets_wrong_is_one_line(
    place: Place, settings: dict[str, str], fragment: str
) -> None:
    assert_one_line_error(place.run(**settings), fragment)
    assert not (place.folder / "results/eval_results_hub.json").exists()


def test_a_data_source_that_is_down_is_one_line(place: Place) -> None:
    shutil.rmtree(place.folder / "data")
    repo = place.hub.repo(REPO)
    assert repo
    manifest = json.loads(repo.commits[-1].files["split_manifest.json"].content)
    manifest["parameters"]["source"] = "http://127.0.0.1:9/"
    repo.commit({"split_manifest.json": json.dumps(manifest).encode()}, "a source that is down")
    result = place.run()
    assert_one_line_error(result, "http://127.0.0.1:9/goodreads_reviews_", "check the network")


def test_help_names_the_settings_without_a_repository(place: Place) -> None:
    result = succeeded(place.run("--help", HF_REPO=""))
    for name in ("HF_REPO", "HF_REVISION", "HF_TOKEN", "HF_TOKEN_FILE"):
        assert name in result.stdout


def test_the_model_cache_is_used_by_hash_and_never_believed(place: Place) -> None:
    arguments = ("--cache-dir", "cache")
    succeeded(place.evaluate(*arguments))
    names = place.fetched()
    assert "model.safetensors" in names
    succeeded(place.evaluate(*arguments))
    assert place.fetched() == []
    document = json.loads((place.folder / "results/eval_results_hub.json").read_text())
    assert document["model"]["cache"] == "6 of 6 files, checked"

    (snapshot,) = (place.folder / "cache").glob("models--*/snapshots/*")
    weights = (snapshot / "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    (snapshot / "tokenizer.json").unlink()  # its blob stays, with other content
    blob = next(p for p in (snapshot.parent.parent / "blobs").iterdir() if b'"WordPiece"' in p.read_bytes())
    blob.write_bytes(b"{}")
    (snapshot / "added_tokens.json").write_text('{"planted": 1}')  # not of the commit: not even looked at
    for listing in snapshot.parent.parent.glob("trees/*"):
        listing.write_text("{}")
    succeeded(place.evaluate(*arguments))
    assert place.fetched() == ["model.safetensors", "tokenizer.json"]
    document = json.loads((place.folder / "results/eval_results_hub.json").read_text())
    assert "added_tokens.json" not in document["model"]["files_sha256"]
    assert closing(succeeded(place.run()))["verdict"] == "IDENTICAL"


def test_a_cache_that_cannot_be_written_is_one_line(place: Place) -> None:
    assert_one_line_error(place.evaluate("--cache-dir", "/proc/cache"), "the model cache /proc/cache cannot")


def test_a_results_folder_that_cannot_be_written_is_found_first(place: Place) -> None:
    result = place.evaluate("--results-dir", "/proc/results")
    assert_one_line_error(result, "cannot write /proc/results: ", '-v "$(pwd)/results:/app/results"')
    assert place.hub.requests == []


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, trained: Path, small_data: Path) -> Path:
    """A folder with a model in DistilBERT's size and random weights: a batch of it takes seconds."""
    folder = tmp_path_factory.mktemp("large")
    arguments = [sys.executable, "-c", BIG, trained / "model", small_data]
    subprocess.run(arguments, cwd=folder, env=environment(folder, PYTHONPATH=str(ROOT)), check=True)
    return folder


@pytest.mark.parametrize("after", ["evaluating model", "device: ", "scoring 160 reviews"])
def test_sigterm_ends_an_evaluation_within_two_seconds(large: Path, small_data: Path, after: str) -> None:
    """During the imports, while loading, and in the middle of a batch."""
    with subprocess.Popen(
        command("evaluate_model.py", "--data-dir", small_data),
        cwd=large,
        env=environment(large),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        while after not in (line := process.stderr.readline()):
            assert line, "it ended before"
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        rest = process.stderr.read()
        assert process.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - sent < 2
    assert [line for line in rest.splitlines() if "error" in line] == [
        "evaluate_model.py: error: stopped by SIGTERM"
    ]
    assert "Traceback" not in rest
    assert not list((large / "results").glob("*"))


def test_sigterm_reaches_the_script_that_the_entry_runs(place: Place) -> None:
    with subprocess.Popen(
        ENTRY, cwd=place.folder, env=place.environment(), stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        assert "evaluating" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        rest = process.stderr.read()  # to the end: of the script's too, which has this pipe open
        assert process.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - sent < 2
    assert "stopped by SIGTERM" in rest
    assert not (place.folder / "results/eval_results_hub.json").exists()


def test_a_gpu_that_was_asked_for_and_is_not_there_is_said_in_a_box(trained: Path, small_data: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for devices, loud in (("all", True), ("void", False)):
        env = {"NVIDIA_VISIBLE_DEVICES": devices}
        arguments = ("--data-dir", small_data, "--name", "gpu")
        result = succeeded(run_script("evaluate_model.py", *arguments, cwd=trained, env=env))
        assert ("║ NO GPU, though one was asked for: NVIDIA_VISIBLE_DEVICES=all." in result.stderr) is loud
    for path in (trained / "results").glob("*_gpu.*"):
        path.unlink()

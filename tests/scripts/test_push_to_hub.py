"""push_to_hub.py, Hub evaluation and comparison, run as a user runs them against the loopback Hub.

The real huggingface_hub client talks to it; what is claimed is judged from the server's side.
"""

import hashlib
import json
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.helpers import (
    assert_one_line_error,
    command,
    environment,
    run_script,
    succeeded,
    temporary_files,
)
from tools.loopback_hub import Fault, LoopbackHub, Token

WRITE, READ, OTHER, FINE = "hf_writeSECRET", "hf_readSECRET", "hf_otherSECRET", "hf_fineSECRET"
TOKENS = {
    WRITE: Token("ada"),
    READ: Token("ada", "read"),
    OTHER: Token("bob"),
    FINE: Token("ada", "fineGrained"),
}
REPO = "ada/genres"
PUBLISHED = {
    ".gitattributes", "README.md", "confusion_matrix.png", "config.json", "eval_results.json",
    "model.safetensors", "split_manifest.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


class Place:
    """A working folder beside a Hub; every script run in it is searched for tokens."""

    def __init__(self, folder: Path, hub: LoopbackHub, data: Path) -> None:
        self.folder, self.hub, self.data = folder, hub, data

    def env(self, **extra: str) -> dict[str, str]:
        return {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": WRITE, "HF_HUB_DISABLE_XET": "1"} | extra

    def run(self, script: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        result = run_script(script, *args, cwd=self.folder, env=self.env(**env))
        self.no_token_in(result.stdout + result.stderr)
        return result

    def push(self, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("push_to_hub.py", "--repo", REPO, "--data-dir", self.data, *args, **env)

    def evaluate(self, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return self.run("evaluate_model.py", "--model", REPO, "--data-dir", self.data, *args, **env)

    def no_token_in(self, text: str) -> None:
        assert "SECRET" not in text
        for path in self.folder.rglob("*"):
            if path.is_file():
                assert b"SECRET" not in path.read_bytes(), path

    def one_right_commit(self) -> None:
        """One commit above the initial one, one tag on it, private, with exactly the files to publish."""
        repo = self.hub.repo(REPO)
        assert repo
        assert repo.private
        assert len(repo.commits) == 2
        assert list(repo.tags.values()) == [repo.head]
        files = repo.commits[-1].files
        assert set(files) == PUBLISHED
        for name in ("model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"):
            content = (self.folder / "model" / name).read_bytes()
            assert files[name].sha256 == hashlib.sha256(content).hexdigest()


@pytest.fixture
def place(tmp_path: Path, trained: Path, small_data: Path) -> Iterator[Place]:
    work = tmp_path / "work"
    shutil.copytree(trained, work, ignore=shutil.ignore_patterns("hf", "mpl"))
    (work / "results" / "confusion_matrix_local.png").write_bytes(b"\x89PNG\r\n\x1a\nstands for the picture")
    with LoopbackHub(tmp_path / "hub", TOKENS) as hub:
        yield Place(work, hub, small_data)


def test_the_whole_proof(place: Place) -> None:
    result = succeeded(place.push())
    place.one_right_commit()
    repo = place.hub.repo(REPO)
    assert repo
    record = json.loads((place.folder / "results" / "hub_push.json").read_text())
    assert record["commit"] == repo.head == json.loads(result.stdout.splitlines()[-1])["commit"]
    assert record["visibility"] == "private"
    assert set(record["files"]) == PUBLISHED - {".gitattributes"}
    for name, entry in record["files"].items():
        assert entry["sha256"] == repo.commits[-1].files[name].sha256

    # again: nothing changes
    again = succeeded(place.push())
    assert "holds this already: nothing to push" in again.stderr
    place.one_right_commit()

    # no review text leaves the machine
    published = b"".join(file.content for file in repo.commits[-1].files.values())
    texts = pq.read_table(place.data / "test.parquet")["text"].to_pylist()
    assert not any(text.encode() in published for text in texts if len(text) > 30)

    place.hub.requests.clear()
    succeeded(place.evaluate())
    fetched = [r for r in place.hub.requests if r.method == "GET" and r.path.endswith("model.safetensors")]
    assert fetched
    assert fetched[0].bytes_sent >= (place.folder / "model" / "model.safetensors").stat().st_size
    hub = json.loads((place.folder / "results" / "eval_results_hub.json").read_text())
    assert hub["model"]["commit"] == repo.head
    assert hub["model"]["cache"] == "fresh"

    result = succeeded(place.run("plot_results.py"))
    assert json.loads(result.stdout.splitlines()[-1])["verdict"] == "IDENTICAL"
    document = json.loads((place.folder / "results" / "comparison.json").read_text())
    assert document["max_abs_logit_difference"] == 0
    assert document["same"] == {"review_ids": True, "labels": True, "weights": True}
    assert not temporary_files(place.folder)


def test_the_card_is_valid_and_says_what_was_measured(place: Place) -> None:
    from huggingface_hub import ModelCard

    succeeded(place.push())
    assert any(r.path.endswith("/validate-yaml") for r in place.hub.requests)
    repo = place.hub.repo(REPO)
    assert repo
    text = repo.commits[-1].files["README.md"].content.decode()
    assert "$" not in text.replace("$$", "")
    metadata = yaml.safe_load(text.split("---")[1])
    expected = {"license", "language", "library_name", "pipeline_tag", "datasets", "metrics", "tags"}
    assert expected <= metadata.keys()
    card = ModelCard(text)
    result = json.loads((place.folder / "results" / "eval_results_local.json").read_text())
    assert {e.metric_name: e.metric_value for e in card.data.eval_results} == {
        name: round(entry["value"], 4) for name, entry in result["metrics"].items()
    }
    first = card.data.eval_results[0]
    assert (first.task_type, first.dataset_split) == ("text-classification", "test")
    assert first.dataset_revision == result["data"]["test_content_sha256"]
    for name, row in result["per_class"].items():
        assert f"{row['f1']:.4f} | {row['support']} |" in text, name
    code = re.search(r"```python\n(.*?)```", text, re.S)
    assert code
    ran = subprocess.run(
        [*command("x")[:1], "-c", code.group(1)],
        cwd=place.folder,
        env=environment(place.folder, **place.env()),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "'label'" in ran.stdout


def test_the_split_is_rebuilt_from_the_hub_or_refused(place: Place, tmp_path: Path) -> None:
    succeeded(place.push())
    succeeded(place.evaluate("--split-from-hub", "--data-dir", "nowhere"))
    result = succeeded(place.run("plot_results.py"))
    assert json.loads(result.stdout.splitlines()[-1])["verdict"] == "IDENTICAL"
    repo = place.hub.repo(REPO)
    assert repo
    manifest = json.loads(repo.commits[-1].files["split_manifest.json"].content)
    manifest["parameters"]["seed"] = 43  # stands for a source that yields other reviews
    repo.commit({"split_manifest.json": json.dumps(manifest).encode()}, "another split")
    result = place.evaluate("--split-from-hub", "--data-dir", "nowhere")
    assert_one_line_error(result, "no longer yields the reviews", "--data-dir")


def test_an_older_push_is_replaced_and_stale_files_go(place: Place) -> None:
    place.hub.store.create(REPO, private=True)
    repo = place.hub.repo(REPO)
    assert repo
    repo.commit({"optimizer.pt": b"state", "config.json": b"{}"}, "an older push")
    succeeded(place.push())
    repo = place.hub.repo(REPO)
    assert repo
    assert set(repo.commits[-1].files) == PUBLISHED
    assert len(repo.commits) == 3


@pytest.mark.parametrize(
    ("token", "fragment"),
    [
        ("", "no token: set HF_TOKEN"),
        ("hf_badSECRET", "the Hub refuses the token (401)"),
        (READ, "the token of ada cannot write"),
        (OTHER, "the token is of bob, who cannot write to ada"),
    ],
)
def test_a_token_that_cannot_write_creates_nothing(place: Place, token: str, fragment: str) -> None:
    place.hub.store.create(REPO, private=False)  # a read token passes create_repo(exist_ok=True) here
    assert_one_line_error(place.push(HF_TOKEN=token), fragment)
    repo = place.hub.repo(REPO)
    assert repo
    assert len(repo.commits) == 1
    assert not any(r.method == "POST" and "repos/create" in r.path for r in place.hub.requests)


def test_a_token_file_and_hf_repo_serve_too(place: Place, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{WRITE}\n")
    settings = {"HF_TOKEN": "", "HF_TOKEN_FILE": str(tmp_path / "token"), "HF_REPO": REPO}
    succeeded(place.run("push_to_hub.py", "--data-dir", place.data, **settings))
    place.one_right_commit()
    result = place.push(HF_TOKEN="", HF_TOKEN_FILE=str(tmp_path / "none"))
    assert_one_line_error(result, "HF_TOKEN_FILE=", "cannot be read")


def other_weights(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.bias"] = tensors["classifier.bias"] + 1
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (other_weights, "eval_results_local.json is of other weights"),
        (lambda f: (f / "model" / "tokenizer.json").unlink(), "it has no tokenizer.json"),
        (
            lambda f: (f / "results" / "eval_results_local.json").unlink(),
            "eval_results_local.json is missing",
        ),
        (lambda f: (f / "results" / "confusion_matrix_local.png").unlink(), "python plot_results.py"),
    ],
)
def test_a_model_without_its_evaluation_is_not_published(place: Place, damage: Any, fragment: str) -> None:
    damage(place.folder)
    assert_one_line_error(place.push(), fragment)
    assert place.hub.requests == []


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "GET", "/whoami-v2", status=500, times=2),
        Fault("status", "POST", "/repos/create", status=503),
        Fault("lost_answer", "POST", "/repos/create"),
        Fault("status", "POST", "/validate-yaml", status=503),
        Fault("status", "POST", "/preupload/", status=503, retry_after=0),
        Fault("status", "POST", "/objects/batch", status=500, retry_after=0),
        Fault("status", "PUT", "", status=500, retry_after=0),
        Fault("cut_upload", "PUT", ""),
        Fault("status", "GET", "/api/models/ada/genres$", status=503, times=3),
        Fault("status", "POST", "/commit/", status=503),
        Fault("lost_answer", "POST", "/commit/"),
        Fault("status", "GET", "/refs", status=502),
        Fault("status", "POST", "/tag/", status=500),
        Fault("lost_answer", "POST", "/tag/"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.method} {fault.path.strip('/')}",
)
def test_a_passing_fault_still_ends_in_one_commit(place: Place, fault: Fault) -> None:
    place.hub.faults.add(fault)
    succeeded(place.push())
    place.one_right_commit()


def test_a_lasting_fault_gets_one_line_and_a_rerun_converges(place: Place) -> None:
    place.hub.faults.add(Fault("status", "POST", "/tag/", status=500, times=None))
    assert_one_line_error(place.push(), "tag v-", "the Hub answered 500")
    place.hub.faults.clear()
    succeeded(place.push())
    place.one_right_commit()


def test_a_hub_that_is_down_gets_one_line(place: Place) -> None:
    assert_one_line_error(
        place.push(HF_ENDPOINT="http://127.0.0.1:9"), "checking the token", "cannot be reached"
    )


def test_a_concurrent_push_is_refused_not_overwritten(place: Place) -> None:
    def meddle(repo: Any) -> None:
        place.hub.before_commit = None
        repo.commit({"theirs.txt": b"mine"}, "somebody else's")

    place.hub.before_commit = meddle
    assert_one_line_error(place.push(), "was changed by somebody else during the push")
    repo = place.hub.repo(REPO)
    assert repo
    assert [commit.title for commit in repo.commits][-1] == "somebody else's"


def test_visibility_and_tags_are_never_changed_unasked(place: Place) -> None:
    succeeded(place.push("--public", "--tag", "v1"))
    repo = place.hub.repo(REPO)
    assert repo
    assert not repo.private
    assert repo.tags == {"v1": repo.head}
    assert_one_line_error(place.push("--tag", "v1"), "exists and is public", "--public")
    repo.commit({"config.json": b"{}"}, "another model")
    result = place.push("--public", "--tag", "v1")
    assert_one_line_error(result, "--tag v1 stands on commit", "choose another")


@pytest.mark.parametrize(
    ("arguments", "env", "fragment"),
    [
        (("--model", "ada/nothing"), {}, "no such repository, or a private one"),
        (("--revision", "v9"), {}, "no such revision"),
        ((), {"HF_TOKEN": ""}, "no such repository, or a private one"),
        ((), {"HF_TOKEN": "hf_badSECRET"}, "401"),
        ((), {"HF_ENDPOINT": "http://127.0.0.1:9"}, "cannot be reached"),
    ],
)
def test_a_hub_model_that_cannot_be_had_gets_one_line(
    place: Place, arguments: tuple[str, ...], env: dict[str, str], fragment: str
) -> None:
    succeeded(place.push())
    assert_one_line_error(place.evaluate(*arguments, **env), fragment)
    assert not (place.folder / "results" / "eval_results_hub.json").exists()


def test_a_flipped_byte_is_caught_and_a_cut_download_is_not_fatal(place: Place) -> None:
    succeeded(place.push())
    weights = r"/resolve/.*model\.safetensors"
    place.hub.faults.add(Fault("flip_byte", "GET", weights))
    result = place.evaluate()
    assert_one_line_error(result, "model.safetensors was damaged on the way", code=1)
    assert not (place.folder / "results" / "eval_results_hub.json").exists()
    for fault in (
        Fault("cut_download", "GET", weights),
        Fault("status", "GET", weights, status=503),
        Fault("status", "HEAD", weights, status=500),
        Fault("status", "GET", "/api/models/ada/genres", status=500, times=2),
        Fault("lost_answer", "GET", weights),
    ):
        place.hub.faults.add(fault)
    succeeded(place.evaluate())


def test_a_full_disk_gets_one_line(place: Place) -> None:
    succeeded(place.push())
    evaluate = shlex.join(command("evaluate_model.py", "--model", REPO, "--data-dir", place.data))
    result = subprocess.run(
        ["bash", "-c", f"ulimit -f 100; exec {evaluate}"],  # no file above 100 KiB can be written
        cwd=place.folder,
        env=environment(place.folder, **place.env()),
        capture_output=True,
        text=True,
    )
    assert_one_line_error(result, f"--model {REPO}", "File too large")
    place.no_token_in(result.stdout + result.stderr)


def test_killed_at_random_moments_a_rerun_converges(place: Place) -> None:
    rng = random.Random(11)
    for _ in range(20):
        with subprocess.Popen(
            command("push_to_hub.py", "--repo", REPO, "--data-dir", place.data),
            cwd=place.folder,
            env=environment(place.folder, **place.env()),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            place.hub.requests.clear()
            limit = time.monotonic() + 60
            # a moment is a number of requests served, and a few milliseconds more
            wanted = rng.randint(1, 16)
            while len(place.hub.requests) < wanted and process.poll() is None and time.monotonic() < limit:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.02))
            process.send_signal(signal.SIGKILL)
            assert process.stdout
            place.no_token_in(process.stdout.read())
        repo = place.hub.repo(REPO)
        if repo and len(repo.commits) == 2 and rng.random() < 0.5:
            place.hub.store.delete(REPO)  # begin anew, or most kills would meet a finished push
    succeeded(place.push())
    place.one_right_commit()


def test_other_weights_are_different_with_the_statistics(place: Place) -> None:
    other_weights(place.folder)
    succeeded(run_script("evaluate_model.py", "--data-dir", place.data, "--name", "hub", cwd=place.folder))
    result = place.run("plot_results.py")
    assert result.returncode == 1
    assert "local and hub are DIFFERENT: the weights are not the same" in result.stderr
    assert "McNemar" in result.stdout
    document = json.loads((place.folder / "results" / "comparison.json").read_text())
    gain = document["accuracy_difference"]
    assert gain["low"] <= gain["value"] <= gain["high"]
    assert 0 <= document["mcnemar"]["p_value"] <= 1
    assert gain["value"] == pytest.approx(document["metrics"]["accuracy"]["difference"])


def test_another_number_format_is_equivalent(place: Place) -> None:
    arguments = ("--data-dir", place.data, "--name", "hub", "--dtype", "bfloat16")
    succeeded(run_script("evaluate_model.py", *arguments, cwd=place.folder))
    result = succeeded(place.run("plot_results.py"))
    assert "EQUIVALENT: same weights" in result.stdout
    (place.folder / "results" / "predictions_hub.parquet").write_bytes(b"PAR1")
    assert_one_line_error(place.run("plot_results.py"), "predictions_hub.parquet is not that of its")


def test_the_default_upload_path_works_too_and_a_fine_grained_token(place: Place) -> None:
    succeeded(place.push(HF_HUB_DISABLE_XET="", HF_TOKEN=FINE))
    place.one_right_commit()
    succeeded(place.evaluate(HF_HUB_DISABLE_XET="", HF_TOKEN=FINE))

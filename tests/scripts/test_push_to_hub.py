"""push_to_hub.py against the Hub on this machine: what is claimed is judged from the server's side."""

import hashlib
import json
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

from tests.helpers import (
    Result,
    assert_one_line_error,
    command,
    environment,
    run_main,
    succeeded,
    temporary_files,
)
from tools.loopback_hub import Fault, LoopbackHub, Repo, Token

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
        return {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": WRITE} | extra

    def run(self, script: str, *args: object, **env: str) -> Result:
        result = run_main(script, *args, cwd=self.folder, env=self.env(**env))
        self.no_token_in(result.stdout + result.stderr)
        return result

    def push(self, *args: object, **env: str) -> Result:
        return self.run("push_to_hub.py", "--repo", REPO, "--data-dir", self.data, *args, **env)

    def evaluate(self, *args: object, **env: str) -> Result:
        return self.run("evaluate_model.py", "--model", REPO, "--data-dir", self.data, *args, **env)

    def no_token_in(self, text: str) -> None:
        assert "SECRET" not in text
        for path in self.folder.rglob("*"):
            if path.is_file():
                assert b"SECRET" not in path.read_bytes(), path

    def document(self, name: str) -> dict[str, object]:
        document: dict[str, object] = json.loads((self.folder / "results" / name).read_text())
        return document

    @property
    def repo(self) -> Repo:
        repo = self.hub.repo(REPO)
        assert repo
        return repo

    def one_right_commit(self) -> None:
        """One commit above the initial one, one tag on it, private, with exactly the files to publish."""
        assert self.repo.private
        assert len(self.repo.commits) == 2
        assert list(self.repo.tags.values()) == [self.repo.head]
        files = self.repo.commits[-1].files
        assert set(files) == PUBLISHED
        for path in (self.folder / "model").iterdir():
            assert files[path.name].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def place(
    tmp_path: Path, trained: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    sleep = time.sleep  # the library pauses too
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    work = tmp_path / "work"
    shutil.copytree(trained, work, ignore=shutil.ignore_patterns("hf", "mpl"))
    (work / "results" / "confusion_matrix_local.png").write_bytes(b"\x89PNG\r\n\x1a\nstands for the picture")
    with LoopbackHub(tmp_path / "hub", TOKENS) as hub:
        yield Place(work, hub, small_data)


def test_a_model_is_published_verified_and_scored_alike(place: Place) -> None:
    result = succeeded(place.push())
    place.one_right_commit()
    record, last = place.document("hub_push.json"), json.loads(result.stdout.splitlines()[-1])
    assert record["commit"] == place.repo.head == last["commit"]
    assert record["url"] == last["url"] == f"{place.hub.url}/{REPO}"
    assert (record["visibility"], record["changed"]) == ("private", True)
    assert set(record["files"]) == PUBLISHED - {".gitattributes"}
    files = place.repo.commits[-1].files
    for name, entry in record["files"].items():
        file = files[name]
        assert list(entry.values()) == [file.size, file.sha256, file.oid, file.lfs]

    # again: nothing changes
    assert "holds this already: nothing to push" in succeeded(place.push()).stderr
    place.one_right_commit()

    # no review text leaves the machine
    published = b"".join(file.content for file in files.values())
    texts = pq.read_table(place.data / "test.parquet")["text"].to_pylist()
    assert not any(text.encode() in published for text in texts if len(text) > 30)

    succeeded(place.evaluate())
    assert place.document("eval_results_hub.json")["model"]["commit"] == place.repo.head
    result = succeeded(place.run("plot_results.py"))
    assert json.loads(result.stdout.splitlines()[-1])["verdict"] == "IDENTICAL"
    assert not temporary_files(place.folder)


def test_pictures_and_a_baseline_are_published_where_they_exist(place: Place) -> None:
    results = place.folder / "results"
    for name in ("training_loss", "per_class_metrics_local"):
        (results / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    shutil.copy(results / "eval_results_local.json", results / "eval_results_tfidf.json")
    succeeded(place.push())
    files = place.repo.commits[-1].files
    assert set(files) == PUBLISHED | {"training_loss.png", "per_class_metrics.png"}
    card = files["README.md"].content.decode()
    assert "(training_loss.png)" in card
    assert "| baseline |" in card


def test_a_sharded_model_of_the_hub_is_scored_like_the_whole_one(place: Place) -> None:
    succeeded(place.push())
    tensors = load_file(place.folder / "model" / "model.safetensors")
    index: dict[str, str] = {}
    changes: dict[str, bytes | None] = {"model.safetensors": None}
    for number, names in enumerate((sorted(tensors)[::2], sorted(tensors)[1::2]), start=1):
        path = place.folder / f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in names}, path, metadata={"format": "pt"})
        changes[path.name] = path.read_bytes()
        index |= dict.fromkeys(names, path.name)
    document = {"metadata": {"total_size": 1}, "weight_map": index}
    place.repo.commit(changes | {"model.safetensors.index.json": json.dumps(document).encode()}, "sharded")
    succeeded(place.evaluate("--name", "sharded"))  # as "hub" it would be compared, file by file
    names = ("predictions_local.parquet", "predictions_sharded.parquet")
    local, hub = (pq.read_table(place.folder / "results" / name) for name in names)
    assert local.equals(hub)


def test_an_older_push_is_replaced_and_stale_files_go(place: Place) -> None:
    place.hub.create(REPO).commit({"optimizer.pt": b"state", "config.json": b"{}"}, "an older push")
    succeeded(place.push())
    assert set(place.repo.commits[-1].files) == PUBLISHED
    assert len(place.repo.commits) == 3


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize(
    ("token", "fragments"),
    [
        ("", ["no token: set HF_TOKEN"] * 2),
        ("hf_badSECRET", ["the Hub refuses the token (401)"] * 2),
        (READ, ["the token of ada cannot write", "you must use a write token"]),
        (OTHER, ["the token is of bob, who cannot write to ada", 'under the namespace "ada"']),
    ],
)
def test_a_token_that_cannot_write_creates_nothing(
    place: Place, token: str, fragments: list[str], exists: bool
) -> None:
    if exists:
        place.hub.create(REPO, private=False)  # create_repo(exist_ok=True) accepts a read token here
    assert_one_line_error(place.push(HF_TOKEN=token), fragments[exists])
    assert not [r for r in place.hub.requests if r.method in ("POST", "PUT", "DELETE")]


def test_a_token_file_a_fine_grained_token_and_hf_repo_serve_too(place: Place, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{FINE}\n")
    settings = {"HF_TOKEN": "", "HF_TOKEN_PATH": str(tmp_path / "token"), "HF_REPO": REPO}
    succeeded(place.run("push_to_hub.py", "--data-dir", place.data, **settings))
    place.one_right_commit()


@pytest.mark.parametrize(
    "arguments", [("--repo", "genres"), ("--repo", "/x"), ("--tag", "v 1"), ("--tag", "a..b/")]
)
def test_a_name_that_cannot_be_is_refused_first(place: Place, arguments: tuple[str, str]) -> None:
    assert_one_line_error(place.push(*arguments), " ".join(arguments[:1]))
    assert place.hub.requests == []


def other_weights(folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["classifier.bias"] = tensors["classifier.bias"] + np.float32(1)
    save_file(tensors, path, metadata={"format": "pt"})


def change_json(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (other_weights, "training_log.json is of other weights"),
        (lambda f: (f / "model" / "tokenizer.json").unlink(), "tokenizer.json"),
        (
            lambda f: (f / "model" / "model.safetensors").write_text("version https://git-lfs"),
            "model.safetensors",
        ),
        (change_json("model/config.json", id2label={str(i): f"L{i}" for i in range(8)}), "its labels (L0,"),
        (change_json("results/eval_results_local.json", model={}), "is of another version"),
        (
            lambda f: (f / "results" / "eval_results_local.json").unlink(),
            "python evaluate_model.py --model model",
        ),
        (lambda f: (f / "results" / "confusion_matrix_local.png").unlink(), "plot_results.py --results-dir"),
    ],
)
def test_a_model_without_its_evaluation_is_not_published(
    place: Place, damage: Callable[[Path], None], fragment: str
) -> None:
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
        Fault("status", "POST", "/preupload/", status=503),
        Fault("status", "POST", "/objects/batch", status=500),
        Fault("status", "PUT", "", status=500),
        Fault("cut_upload", "PUT", ""),
        Fault("status", "GET", "/api/models/ada/genres$", status=503, times=3),
        Fault("status", "GET", "/tree/", status=502),
        Fault("status", "POST", "/commit/", status=503),
        Fault("lost_answer", "POST", "/commit/"),
        Fault("status", "POST", "/tag/", status=500),
        Fault("lost_answer", "POST", "/tag/"),
    ],
    ids=lambda fault: f"{fault.kind} {fault.method} {fault.path.strip('/')}",
)
def test_a_passing_fault_still_ends_in_one_commit(place: Place, fault: Fault) -> None:
    place.hub.faults.append(fault)
    succeeded(place.push())
    assert fault.times == 0
    place.one_right_commit()


@pytest.mark.parametrize(
    ("fault", "fragments"),
    [
        (Fault("status", "POST", "/tag/", 500), ("tag v-", "the Hub answered 500")),
        (
            Fault("status", "POST", "/commit/", 403, message="Storage limit reached"),
            ("Storage limit reached",),
        ),
        (
            Fault("status", "POST", "/commit/", 400, message="card: bad"),
            ("commit to ada/genres", "card: bad"),
        ),
        (Fault("status", "GET", "/tree/v-", 500), ("the Hub answered 500",)),  # the check after the push
    ],
)
def test_a_lasting_fault_is_one_line_and_running_again_completes_the_push(
    place: Place, fault: Fault, fragments: tuple[str, ...]
) -> None:
    fault.times = None
    place.hub.faults.append(fault)
    assert_one_line_error(place.push("--public"), *fragments)
    assert place.repo.private  # not public before it is complete and verified
    place.hub.faults.clear()
    succeeded(place.push("--public"))
    assert not place.repo.private
    assert len(place.repo.commits) == 2


def test_a_concurrent_push_is_refused_not_overwritten(place: Place) -> None:
    def meddle(repo: Repo) -> None:
        place.hub.before_commit = None
        repo.commit({"theirs.txt": b"mine"}, "somebody else's")

    place.hub.before_commit = meddle
    assert_one_line_error(place.push(), "was changed by somebody else during the push")
    assert place.repo.commits[-1].title == "somebody else's"


def test_visibility_and_tags_are_never_changed_unasked(place: Place) -> None:
    succeeded(place.push("--public", "--tag", "v1"))
    assert not place.repo.private
    assert place.document("hub_push.json")["visibility"] == "public"
    assert place.repo.tags == {"v1": place.repo.head}
    assert_one_line_error(place.push("--tag", "v1"), "exists and is public", "--public")
    place.repo.commit({"config.json": b"{}"}, "another model")
    result = place.push("--public", "--tag", "v1")
    assert_one_line_error(result, "--tag v1 is on commit", "choose another")


def test_a_full_disk_while_downloading_is_one_line(place: Place) -> None:
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


def test_after_kills_at_random_moments_a_last_run_completes_the_push(place: Place) -> None:
    rng = random.Random(11)
    for _ in range(8):
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
            del place.hub.repos[REPO]  # start again, or most kills would come after a finished push
    succeeded(place.push())
    place.one_right_commit()

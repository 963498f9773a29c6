"""push_to_hub.py against the Hub on this machine: what is claimed is judged from the server's side."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.helpers import Result, assert_one_line_error, run_main, succeeded
from tools.loopback_hub import Fault, LoopbackHub, Repo, Token

WRITE, READ, OTHER = "hf_writeSECRET", "hf_readSECRET", "hf_otherSECRET"
TOKENS = {WRITE: Token("ada"), READ: Token("ada", "read"), OTHER: Token("bob")}
Damage = Callable[[Path], object]
REPO = "ada/genres"
PICTURES = ("confusion_matrix_local.png", "per_class_metrics_local.png", "training_loss.png")
MODEL = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
PUBLISHED = MODEL | {name.replace("_local", "") for name in PICTURES}
PUBLISHED |= {".gitattributes", "README.md", "eval_results.json", "split_manifest.json"}


class Place:
    """A working folder beside a Hub; whatever a script prints or writes there is searched for tokens."""

    def __init__(self, folder: Path, hub: LoopbackHub, data: Path) -> None:
        self.folder, self.hub = folder, hub
        self.options = ("--repo", REPO, "--data-dir", data)
        self.env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITE}

    def push(self, *args: object, **env: str) -> Result:
        result = run_main("push_to_hub.py", *self.options, *args, cwd=self.folder, env=self.env | env)
        written = b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())
        assert "SECRET" not in result.stdout + result.stderr and b"SECRET" not in written
        return result

    @property
    def repo(self) -> Repo:
        return self.hub.repos[REPO]

    def one_right_commit(self, private: bool = True) -> None:
        """One commit above the initial one, one tag on it, with exactly the files to publish."""
        assert self.repo.private == private
        assert len(self.repo.commits) == 2
        assert list(self.repo.tags.values()) == [self.repo.head]
        files = self.repo.commits[-1].files
        assert set(files) == PUBLISHED
        for name in MODEL:
            assert files[name].content == (self.folder / "model" / name).read_bytes()


@pytest.fixture
def place(
    tmp_path: Path, trained: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    sleep = time.sleep  # the library pauses too
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    work = tmp_path / "work"
    shutil.copytree(trained, work, ignore=shutil.ignore_patterns("hf", "mpl"))
    for name in PICTURES:
        (work / "results" / name).write_bytes(b"\x89PNG\r\n\x1a\nstands for the picture")
    shutil.copy(work / "results/eval_results_local.json", work / "results/eval_results_tfidf.json")
    with LoopbackHub(TOKENS) as hub:
        yield Place(work, hub, small_data)


def test_a_model_is_published_once_verified_and_scored_alike(place: Place, small_data: Path) -> None:
    record = json.loads(succeeded(place.push()).stdout.splitlines()[-1])
    place.one_right_commit()
    assert json.loads((place.folder / "results/hub_push.json").read_text()) == record
    assert (record["commit"], record["url"]) == (place.repo.head, f"{place.hub.url}/{REPO}")
    assert (record["visibility"], {record["tag"]}) == ("private", place.repo.tags.keys())
    files = place.repo.commits[-1].files
    assert "| baseline |" in files["README.md"].content.decode()

    texts = pq.read_table(small_data / "test.parquet")["text"].to_pylist()
    published = b"".join(file.content for file in files.values())
    assert not any(text.encode() in published for text in texts if len(text) > 30)

    assert "pushing nothing, it holds this already" in succeeded(place.push()).stderr
    place.one_right_commit()
    options = ("--model", REPO, "--data-dir", small_data)
    result = succeeded(run_main("evaluate_model.py", *options, cwd=place.folder, env=place.env))
    assert json.loads(result.stdout.splitlines()[-1])["verdict"] == "IDENTICAL"


NO_WRITERS = [
    ("", "set HF_TOKEN or HF_TOKEN_PATH"),
    ("hf_badSECRET", "the Hub refuses the token (401)"),
    (READ, "you must use a write token"),
    (OTHER, 'under the namespace "ada"'),
]


@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
@pytest.mark.parametrize(("token", "fragment"), NO_WRITERS)
def test_a_token_that_cannot_write(place: Place, token: str, fragment: str, exists: bool) -> None:
    if exists:
        place.hub.create(REPO, private=False)  # create_repo(exist_ok=True) accepts a read token here
    assert_one_line_error(place.push(HF_TOKEN=token), fragment)
    assert [len(repo.commits) for repo in place.hub.repos.values()] == [1] * exists


def change(name: str, **values: object) -> Damage:
    def edit(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))

    return edit


UNFIT = [  # what is done to the folder, arguments, part of the error line
    (lambda f: None, "--repo genres", "no repository genres: give --repo user/name or set HF_REPO"),
    (lambda f: (f / "model/vocab.txt").touch(), "", "training_log.json is of another model"),
    (change("model/config.json", id2label={str(i): f"L{i}" for i in range(8)}), "", "another model"),
    (lambda f: (f / "model/model.safetensors").write_text("version https://git-lfs"), "", "git lfs pull"),
    (change("results/eval_results_local.json", model={}), "", "is of another version"),
    (lambda f: (f / "results/eval_results_local.json").unlink(), "", "evaluate_model.py --model model"),
    (lambda f: (f / "results" / PICTURES[0]).unlink(), "", "plot_results.py --results-dir results"),
]


@pytest.mark.parametrize(("damage", "arguments", "fragment"), UNFIT)
def test_what_is_not_fit_to_publish(place: Place, damage: Damage, arguments: str, fragment: str) -> None:
    damage(place.folder)
    assert_one_line_error(place.push(*arguments.split()), fragment)
    assert place.hub.requests == []


FAULTS = [  # kind, method and path of each request of a push
    *(("status", "GET", path) for path in ("genres$", "/auth-check/", "/tree/[0-9a-f]{40}", "/tree/v-")),
    *(("status", "POST", path) for path in ("/create", "/preupload/", "/batch", "/commit/", "/tag/")),
    *(("lost_answer", "POST", path) for path in ("/commit/", "/tag/")),
    ("cut_upload", "PUT", "/lfs-upload/"),
    ("status", "PUT", "/settings"),
]


@pytest.mark.parametrize("times", [1, None], ids=["passing", "lasting"])
@pytest.mark.parametrize(("kind", "method", "path"), FAULTS)
def test_a_push_that_breaks_off(place: Place, kind: Any, method: str, path: str, times: int | None) -> None:
    place.hub.faults.append(fault := Fault(kind, method, path, 500, times=times))
    result = place.push("--public")
    if fault.times is None and result.returncode:
        assert_one_line_error(result, REPO)
        assert all(repo.private for repo in place.hub.repos.values())  # until all of it is there and verified
        place.hub.faults.clear()
        result = place.push("--public")
    succeeded(result)
    assert fault.times in (0, None)
    place.one_right_commit(private=False)


@pytest.mark.parametrize("faults", [[], [Fault("lost_answer", "POST", "/commit/")]], ids=["", "lost answer"])
def test_a_concurrent_push_is_refused_not_overwritten(place: Place, faults: list[Fault]) -> None:
    place.hub.faults += faults

    def meddle(repo: Repo) -> None:
        place.hub.before_commit = None
        repo.commit({"theirs.txt": b"mine"}, "somebody else's")

    place.hub.before_commit = meddle
    assert_one_line_error(place.push(), "was changed by somebody else during the push")
    assert place.repo.commits[-1].title == "somebody else's"


def test_public_when_asked_a_tag_for_each_version_and_stale_files_gone(place: Place, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{WRITE}\n")
    succeeded(place.push("--public", HF_TOKEN="", HF_TOKEN_PATH=str(tmp_path / "token")))
    assert not place.repo.private
    assert_one_line_error(place.push(), "exists and is public", "--public")
    place.repo.commit({"config.json": b"{}", "optimizer.pt": b"state"}, "another model")
    (place.folder / "results" / PICTURES[0]).write_bytes(b"drawn anew")
    succeeded(place.push("--public"))
    assert set(place.repo.commits[-1].files) == PUBLISHED
    assert [*place.repo.tags.values()] == [place.repo.commits[1].oid, place.repo.head]

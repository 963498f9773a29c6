"""The loopback Hub, driven by the real huggingface_hub client in processes of their own."""

import importlib.util
import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tools.loopback_hub import Fault, LoopbackHub, Repo, Token

TOKENS = {"hf_write": Token("ada"), "hf_read": Token("ada", "read"), "hf_other": Token("bob")}

PRELUDE = """
import json, os, sys
from pathlib import Path
from huggingface_hub import CommitOperationAdd as Add, CommitOperationDelete as Delete
from huggingface_hub import HfApi, hf_hub_download, snapshot_download

api, repo, out = HfApi(), "ada/reviews", {}

def commit(**contents):
    return api.create_commit(repo, [Add(k, v) for k, v in contents.items()], commit_message="a change").oid

def failure(call):
    try:
        call()
    except Exception as error:
        answer = getattr(error, "response", None)
        return [type(error).__name__, getattr(answer, "status_code", None), str(error)]
"""


@dataclass
class Client:
    """Runs code with the real client against a hub, each time in a new process."""

    hub: LoopbackHub
    home: Path

    def __call__(self, code: str, token: str = "hf_write", **env: str) -> dict[str, Any]:
        """What the code left in `out`."""
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        settings = {
            "HF_ENDPOINT": self.hub.url,
            "HF_HOME": str(self.home),
            "HF_TOKEN": token,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        script = f"{PRELUDE}\n{code}\nprint(json.dumps(out))"
        command = [sys.executable, "-c", script]
        run = subprocess.run(
            command, env={**clean, **settings, **env}, capture_output=True, text=True, timeout=60
        )
        assert run.returncode == 0, run.stderr
        answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
        return answer


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub", TOKENS) as hub:
        yield hub


@pytest.fixture
def client(hub: LoopbackHub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home")


@pytest.fixture
def repo(hub: LoopbackHub) -> Repo:
    """A private repo with a large and a small file."""
    repo = hub.store.create("ada/reviews", private=True)
    repo.commit({"model.safetensors": os.urandom(2_000_000), "config.json": b"{}"}, "first")
    return repo


def calls(hub: LoopbackHub, method: str, path: str) -> list[int]:
    """The statuses of the matching requests."""
    return [r.status for r in hub.requests if r.method == method and re.search(path, r.path)]


def test_publishes_and_downloads(hub: LoopbackHub, client: Client, tmp_path: Path) -> None:
    weights = os.urandom(3_000_000)
    (tmp_path / "weights").write_bytes(weights)
    out = client(f"""
who = api.whoami()
out["who"] = [who["name"], who["auth"]["accessToken"]["role"]]
url = api.create_repo(repo, private=True)
out["url"] = [str(url), url.repo_id, str(api.create_repo(repo, exist_ok=True))]
out["again"] = failure(lambda: api.create_repo(repo))
fresh = api.model_info(repo)
out["fresh"] = [fresh.private, [s.rfilename for s in fresh.siblings]]
weights, card = "{tmp_path}/weights", b"---\\nlicense: mit\\n---\\n"
new = lambda: [Add("model.safetensors", weights), Add("README.md", card), Add("sub/a b.txt", b"a")]
done = api.create_commit(
    repo, new(), commit_message="weights", commit_description="more", parent_commit=fresh.sha)
out["commit"] = [done.oid, done.commit_url]
out["same"] = api.create_commit(repo, new(), commit_message="again").oid
out["stale"] = failure(lambda: api.create_commit(
    repo, [Add("x.txt", b"x")], commit_message="stale", parent_commit=fresh.sha))
api.create_tag(repo, tag="v1.0", revision=done.oid)
out["tag twice"] = failure(lambda: api.create_tag(repo, tag="v1.0"))
refs = api.list_repo_refs(repo)
out["refs"] = {{ref.ref: ref.target_commit for ref in refs.branches + refs.tags}}
folder = snapshot_download(repo, revision="v1.0", cache_dir="{tmp_path}/cache")
out["same bytes"] = Path(folder, "model.safetensors").read_bytes() == Path("{tmp_path}/weights").read_bytes()
out["files"] = sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
checked = api.verify_repo_checksums(repo, revision="v1.0", cache_dir="{tmp_path}/cache")
out["checked"] = [checked.checked_count, checked.mismatches, checked.missing_paths]
tree = {{e.path: e for e in api.list_repo_tree(repo, recursive=True, expand=True)}}
out["lfs"] = [tree["model.safetensors"].lfs.sha256, tree["model.safetensors"].last_commit.title]
out["paths"] = [e.path for e in api.get_paths_info(repo, ["sub", "README.md", "none"])]
out["blobs"] = [s.size for s in api.model_info(repo, files_metadata=True).siblings]
api.create_commit(repo, [Delete("README.md"), Delete("sub/", is_folder=True)], commit_message="tidy")
out["left"] = api.list_repo_files(repo)
out["gone"] = failure(lambda: api.delete_file("README.md", repo))
out["titles"] = [c.title for c in api.list_repo_commits(repo)]
api.delete_tag(repo, tag="v1.0")
""")
    repo = hub.repo("ada/reviews")
    assert repo and repo.private and repo.tags == {}
    oid = repo.commits[1].oid
    assert out["who"] == ["ada", "write"]
    assert out["url"] == [f"{hub.url}/ada/reviews", "ada/reviews", f"{hub.url}/ada/reviews"]
    assert out["again"][:2] == ["HfHubHTTPError", 409]
    assert out["fresh"] == [True, [".gitattributes"]]
    assert out["commit"] == [oid, f"{hub.url}/ada/reviews/commit/{oid}"]
    assert out["same"] == oid
    assert out["stale"][:2] == ["HfHubHTTPError", 412] and "A commit has happened since" in out["stale"][2]
    assert out["tag twice"][:2] == ["HfHubHTTPError", 409]
    assert out["refs"] == {"refs/heads/main": oid, "refs/tags/v1.0": oid}
    assert out["same bytes"]
    assert out["files"] == [".gitattributes", "README.md", "model.safetensors", "sub/a b.txt"]
    assert out["checked"] == [4, [], []]
    assert out["lfs"] == [sha256(weights).hexdigest(), "weights"]
    assert out["paths"] == ["sub", "README.md"]
    assert 3_000_000 in out["blobs"]
    assert out["left"] == [".gitattributes", "model.safetensors"]
    assert out["gone"][:2] == ["RemoteEntryNotFoundError", 404]
    assert out["titles"] == ["tidy", "weights", "initial commit"]
    first, second, third = repo.commits
    assert (first.parent, second.parent, third.parent, repo.head) == (None, first.oid, oid, third.oid)
    assert (second.title, second.message) == ("weights", "more")
    file = second.files["model.safetensors"]
    assert (file.lfs, file.size, file.content == weights) == (True, 3_000_000, True)
    assert not second.files["README.md"].lfs
    assert len(calls(hub, "PUT", "/lfs-upload/")) == 1  # the second commit found the object there
    uploads = [request.authorized for request in hub.requests if request.method == "PUT"]
    assert uploads == [False] and all(r.authorized for r in hub.requests if r.method != "PUT")


def test_refuses_like_the_hub(hub: LoopbackHub, tmp_path: Path, repo: Repo) -> None:
    probe = """
out["create"] = failure(lambda: api.create_repo(repo, exist_ok=True))
out["info"] = failure(lambda: api.model_info(repo))
out["file"] = failure(lambda: hf_hub_download(repo, "config.json"))
out["commit"] = failure(lambda: commit(x=b"x"))
out["tag"] = failure(lambda: api.create_tag(repo, tag="t"))
"""

    def short(out: dict[str, Any]) -> dict[str, Any]:
        return {key: value and value[:2] for key, value in out.items()}

    def probed(token: str) -> dict[str, Any]:
        # A home of its own: the client hands out what its cache holds, whoever asks.
        return short(Client(hub, tmp_path / f"home-{token}")(probe, token=token))

    forbidden, hidden = ["HfHubHTTPError", 403], ["RepositoryNotFoundError", 404]
    read = probed("hf_read")
    assert read == {"create": None, "info": None, "file": None, "commit": forbidden, "tag": forbidden}
    assert probed("hf_other") == {**dict.fromkeys(read, hidden), "create": forbidden}
    assert set(map(tuple, probed("hf_bad").values())) == {("HfHubHTTPError", 401)}
    assert probed("")["info"] == ["RepositoryNotFoundError", 401]
    out = Client(hub, tmp_path / "home")(
        """
out["role"] = api.whoami()["auth"]["accessToken"]["role"]
out["new"] = failure(lambda: api.create_repo("ada/new"))
out["repo"] = failure(lambda: snapshot_download("ada/none"))
out["revision"] = failure(lambda: snapshot_download(repo, revision="none"))
out["entry"] = failure(lambda: hf_hub_download(repo, "none.txt"))
out["exists"] = [api.repo_exists("ada/none"), api.revision_exists(repo, "none")]
""",
        token="hf_read",
    )
    assert out.pop("role") == "read"
    assert out.pop("exists") == [False, False]
    assert short(out) == {
        "new": forbidden,
        "repo": hidden,
        "revision": ["RevisionNotFoundError", 404],
        "entry": ["RemoteEntryNotFoundError", 404],
    }
    assert len(repo.commits) == 2


def test_settings_branches_and_deletion(hub: LoopbackHub, client: Client, repo: Repo) -> None:
    out = client("""
api.update_repo_settings(repo, private=False)
out["public"] = HfApi(token=False).model_info(repo).private
api.create_branch(repo, branch="dev/x")
commit_info = api.upload_file(path_or_fileobj=b"y", path_in_repo="y", repo_id=repo, revision="dev/x")
out["dev"] = api.list_repo_files(repo, revision="dev/x")
api.auth_check(repo, write=True)
""")
    assert out == {"public": False, "dev": [".gitattributes", "config.json", "model.safetensors", "y"]}
    assert repo.branches["dev/x"] == repo.commits[-1].oid != repo.head
    client("api.delete_branch(repo, branch='dev/x'); api.delete_repo(repo)")
    assert hub.repo("ada/reviews") is None


def test_commits_behind_the_clients_back(hub: LoopbackHub, client: Client, repo: Repo) -> None:
    hub.before_commit = lambda repo: repo.commit({"theirs": b"1", "config.json": None}, "theirs")
    out = client("""
head = api.model_info(repo).sha
out["stale"] = failure(lambda: api.create_commit(
    repo, [Add("ours", b"2")], commit_message="ours", parent_commit=head))
""")
    assert out["stale"][:2] == ["HfHubHTTPError", 412]
    assert [commit.title for commit in repo.commits] == ["initial commit", "first", "theirs"]
    assert set(repo.commits[-1].files) == {".gitattributes", "model.safetensors", "theirs"}


def test_upload_faults(hub: LoopbackHub, client: Client, repo: Repo) -> None:
    """The client retries all of an upload but the commit itself."""
    hub.faults.add(Fault("status", "POST", "/preupload/", retry_after=0))
    hub.faults.add(Fault("cut_upload", "PUT", "/lfs-upload/"))
    hub.faults.add(Fault("lost_answer", "POST", "/verify"))
    hub.faults.add(Fault("status", "POST", "/commit/", status=503, skip=1))
    hub.faults.add(Fault("lost_answer", "POST", "/commit/"))
    out = client("""
big = {"big.bin": os.urandom(1_000_000)}
out["lost"] = failure(lambda: commit(**big))
out["unavailable"] = failure(lambda: commit(x=b"x"))
out["retried"] = commit(**big)
""")
    assert out["lost"][:2] == ["RemoteProtocolError", None]
    assert out["unavailable"][:2] == ["HfHubHTTPError", 503]
    assert out["retried"] == repo.head  # the lost commit was made: the retry finds nothing to change
    assert [commit.title for commit in repo.commits] == ["initial commit", "first", "a change"]
    assert calls(hub, "POST", "/preupload/")[:2] == [503, 200]
    assert calls(hub, "PUT", "/lfs-upload/") == [0, 200]
    assert calls(hub, "POST", "/verify") == [0, 200]
    assert calls(hub, "POST", "/commit/") == [0, 503]


def test_download_faults(hub: LoopbackHub, client: Client, repo: Repo) -> None:
    # The client keeps what it got of a broken download in steps of 10 MiB.
    repo.commit({"large.bin": os.urandom(24 << 20)}, "large")
    hub.faults.add(Fault("cut_download", "GET", "large.bin"))
    hub.faults.add(Fault("flip_byte", "GET", "model.safetensors"))
    hub.faults.add(Fault("status", "GET", "config.json", status=503))
    hub.faults.add(Fault("stall", "HEAD", "gitattributes", seconds=5))
    out = client(
        """
from hashlib import sha256
large = Path(hf_hub_download(repo, "large.bin"))
out["large"] = sha256(large.read_bytes()).hexdigest()
out["unavailable"] = failure(lambda: hf_hub_download(repo, "config.json"))
snapshot_download(repo)
out["bad"] = [m["path"] for m in api.verify_repo_checksums(repo).mismatches]
snapshot_download(repo, force_download=True)
out["good"] = api.verify_repo_checksums(repo).mismatches
""",
        HF_HUB_ETAG_TIMEOUT="1",
    )
    assert out["large"] == repo.commits[-1].files["large.bin"].sha256
    assert calls(hub, "GET", "large.bin")[:2] == [200, 206]
    assert out["unavailable"][:2] == ["HfHubHTTPError", 503]
    assert out["bad"] == ["model.safetensors"]
    assert out["good"] == []


def test_ranges(hub: LoopbackHub, repo: Repo) -> None:
    content = repo.commits[-1].files["model.safetensors"].content
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def get(span: str) -> tuple[int, bytes]:
        headers = {"Authorization": "Bearer hf_read", "Range": span}
        address = f"{hub.url}/ada/reviews/resolve/{repo.head}/model.safetensors"
        with opener.open(urllib.request.Request(address, headers=headers)) as answer:
            return answer.status, answer.read()

    assert get("bytes=10-19") == (206, content[10:20])
    assert get("bytes=1999990-") == (206, content[-10:])
    assert get("bytes=-7") == (206, content[-7:])
    with pytest.raises(urllib.error.HTTPError) as refused:
        get("bytes=2000000-")
    assert refused.value.code == 416
    refused.value.close()


def test_restarts_on_the_same_root(hub: LoopbackHub, client: Client, repo: Repo, tmp_path: Path) -> None:
    client("commit(x=b'1'); api.create_tag(repo, tag='v1')")
    with LoopbackHub(tmp_path / "hub", TOKENS) as second:
        again = second.repo("ada/reviews")
        assert again and again.private and again.commits == repo.commits
        assert (again.branches, again.tags) == (repo.branches, repo.tags)
        files = Client(second, tmp_path / "fresh")("""
out["files"] = sorted(os.listdir(snapshot_download(repo, revision="v1")))
""")["files"]
    assert files == [".gitattributes", "config.json", "model.safetensors", "x"]


@pytest.mark.skipif(importlib.util.find_spec("hf_xet") is None, reason="hf_xet is not installed")
def test_xet(hub: LoopbackHub, client: Client, repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("a.bin", "b.bin"):
        (tmp_path / "folder" / name).write_bytes(os.urandom(500_000))
    out = client(
        f"""
big = os.urandom(2_000_000)
first = commit(**{{"big.bin": big}})
out["same"] = commit(**{{"big.bin": big}}) == first
api.upload_folder(folder_path="{tmp_path}/folder", repo_id=repo)
out["hashes"] = [f.xet_hash for f in api.get_paths_info(repo, ["big.bin", "a.bin", "b.bin"])]
""",
        HF_HUB_DISABLE_XET="",
    )
    assert out["same"] and all(len(digest) == 64 for digest in out["hashes"])
    assert calls(hub, "PUT", "") == []
    files = repo.commits[-1].files
    assert files["a.bin"].content == (tmp_path / "folder/a.bin").read_bytes()
    download = """
snapshot_download(repo)
checked = api.verify_repo_checksums(repo)
out["checked"] = [checked.checked_count, checked.mismatches]
"""
    hub.requests.clear()
    assert client(download, HF_HUB_DISABLE_XET="")["checked"] == [6, []]
    assert calls(hub, "GET", "/resolve/.*/big.bin") == []  # came by xet
    assert Client(hub, tmp_path / "fresh")(download)["checked"] == [6, []]
    assert calls(hub, "GET", "/resolve/.*/big.bin") == [200]  # by HTTP, for who has no xet


def test_command_line(tmp_path: Path) -> None:
    script = [sys.executable, str(Path(__file__).parents[2] / "tools/loopback_hub.py")]
    started = time.monotonic()
    subprocess.run([*script, "--help"], check=True, capture_output=True)
    assert time.monotonic() - started < 2
    token, url = tmp_path / "token", tmp_path / "url"
    options = ["--root", tmp_path / "hub", "--user", "ada", "--token-file", token, "--url-file", url]
    with subprocess.Popen([*script, *map(str, options)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        deadline = time.monotonic() + 10
        while not url.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert line == f"HF_ENDPOINT={url.read_text()}\n"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        request = urllib.request.Request(f"{url.read_text()}/api/whoami-v2")
        request.add_header("Authorization", f"Bearer {token.read_text()}")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request) as answer:
            assert json.load(answer)["name"] == "ada"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

"""The loopback Hub as the real huggingface_hub client sees it, and its command line."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from tests.helpers import ROOT
from tools.loopback_hub import Fault, LoopbackHub, Token

REPO = "ada/reviews"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    huggingface_hub.close_session()
    with LoopbackHub(tmp_path / "hub", {"hf_write": Token("ada")}) as hub:
        yield hub
    huggingface_hub.close_session()


def test_a_repository_is_published_tagged_fetched_and_verified(hub: LoopbackHub, tmp_path: Path) -> None:
    api, weights = HfApi(hub.url, token="hf_write"), os.urandom(300_000)
    first = api.create_repo(REPO, private=True) and api.model_info(REPO).sha
    operations = [CommitOperationAdd("w.safetensors", weights), CommitOperationAdd("a b.txt", b"text")]
    commit = api.create_commit(REPO, operations, commit_message="one", parent_commit=first)
    api.create_tag(REPO, tag="v1", revision=commit.oid)
    assert {ref.name: ref.target_commit for ref in api.list_repo_refs(REPO).tags} == {"v1": commit.oid}
    hub.faults.append(Fault("cut_download", path="w.safetensors"))
    folder = api.snapshot_download(REPO, revision="v1", local_dir=tmp_path / "copy")
    assert Path(folder, "w.safetensors").read_bytes() == weights
    seen = api.verify_repo_checksums(REPO, revision="v1", local_dir=folder)
    assert (seen.checked_count, seen.mismatches, seen.missing_paths, seen.extra_paths) == (3, [], [], [])
    api.create_commit(REPO, [CommitOperationDelete("a b.txt")], commit_message="two")
    assert [commit.title for commit in hub.repos[REPO].commits] == ["initial commit", "one", "two"]
    api.delete_tag(REPO, tag="v1")
    api.update_repo_settings(REPO, private=False)
    assert HfApi(hub.url, token=False).model_info(REPO).private is False


def test_the_command_line_serves_until_it_is_stopped(tmp_path: Path) -> None:
    token, url = tmp_path / "token", tmp_path / "url"
    options = ["--root", tmp_path / "hub", "--user", "ada", "--token-file", token, "--url-file", url]
    command = [sys.executable, str(ROOT / "tools" / "loopback_hub.py"), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        while not url.exists() and process.poll() is None:
            time.sleep(0.01)
        assert line == f"HF_ENDPOINT={url.read_text()} HF_HUB_DISABLE_XET=1\n"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        request = urllib.request.Request(f"{url.read_text()}/api/whoami-v2")
        request.add_header("Authorization", f"Bearer {token.read_text()}")
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
            assert json.load(answer)["name"] == "ada"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0

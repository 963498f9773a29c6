"""Calls to the Hub and downloads from it: real HTTP to a Hub on this machine."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib import reload
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from goodreads.common import cli
from goodreads.common.errors import CheckFailed, InputError
from goodreads.hub import client
from tests.helpers import assert_one_line_error, environment, run_script
from tools.loopback_hub import Fault, LoopbackHub, Token

REPO, INFO = "ada/genres", "/api/models/ada/genres$"
FILES = {
    "config.json": b"{}",
    "model.safetensors.index.json": b"{}",
    "model-00001-of-00002.safetensors": b"a" * 3000,
    "model-00002-of-00002.safetensors": b"b" * 3000,
    "training_args.bin": b"pickle",
    "onnx/model.safetensors": b"another model",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr(client, "FIRST_PAUSE", 0.0)
    with LoopbackHub(tmp_path / "hub", {"hf_SECRET": Token("ada")}) as hub:
        hub.create(REPO).commit({**FILES}, "a sharded model")
        settings(tmp_path, monkeypatch, HF_ENDPOINT=hub.url)
        yield hub
    huggingface_hub.close_session()


def settings(home: Path, monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Let huggingface_hub read these environment variables, as if it had just been imported."""
    for name, value in (environment(home) | {"HF_TOKEN": "hf_SECRET"} | values).items():
        monkeypatch.setenv(name, value)
    reload(huggingface_hub.constants)
    huggingface_hub.close_session()


def fetch(folder: Path, cache: Path | None = None, revision: str | None = None) -> dict[str, Any]:
    return client.download(REPO, revision, cache, folder)


@pytest.mark.parametrize(
    ("status", "code", "message", "expected"),
    [
        (403, "GatedRepo", "Access to model x is restricted", "a gated repository: ask for access"),
        (403, "", "Access to this resource is disabled.", "the Hub has disabled this repository"),
        (404, "RepoNotFound", "Repository not found", "no such repository, or a private one"),
        (404, "RevisionNotFound", "Invalid rev id: v9", "no such revision"),
        (404, "EntryNotFound", "Entry not found", "no such file"),
        (401, "", "Invalid credentials in Authorization header", "the Hub refuses the token (401)"),
        (403, "", "Private repository storage limit reached", "the Hub refuses this (403)"),
        (402, "", "Payment required", "the Hub answered 402"),
        (413, "", "Too large", "the Hub answered 413"),
        (429, "", "Slow down", "the Hub answered 429"),
        (500, "", "Internal error 42", "the Hub answered 500"),
    ],
)
def test_an_error_of_the_hub_is_reported_with_its_own_reason(
    hub: LoopbackHub, tmp_path: Path, status: int, code: str, message: str, expected: str
) -> None:
    hub.faults.append(Fault("status", path=INFO, status=status, code=code, message=message, times=None))
    with pytest.raises(InputError) as raised:
        fetch(tmp_path / "model")
    assert str(raised.value).startswith(f"--model {REPO}: {expected}")
    assert f"(the Hub says: {message})" in str(raised.value)
    assert status == 401 or "token" not in expected.removesuffix("that this token cannot see")
    assert len([r for r in hub.requests if r.status]) == (4 if status in (429, 500) else 1)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date", "ratelimit"])
def test_a_hub_that_asks_to_wait_is_given_the_time(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, form: str
) -> None:
    if form == "ratelimit" and status != 429:
        pytest.skip("the header goes with 429 alone")
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=7), usegmt=True)
    headers = {
        "seconds": {"Retry-After": "7"},
        "date": {"Retry-After": date},
        "ratelimit": {"RateLimit": '"api";r=0;t=7'},
    }[form]
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    hub.faults.append(Fault("status", path=INFO, status=status, headers=headers))
    fetch(tmp_path / "model")
    assert [pause for pause in pauses if pause > 1] == [pytest.approx(7, abs=4)]
    hub.faults.append(Fault("status", path=INFO, status=status, headers={"Retry-After": "3600"}))
    with pytest.raises(InputError, match="asks to wait 3600 s"):
        fetch(tmp_path / "again")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"ALL_PROXY": "gopher://proxy:1"}, "ALL_PROXY or SSL_CERT_FILE has a value that cannot be used"),
        ({"HTTPS_PROXY": "http://proxy:port"}, "HTTPS_PROXY, .*cannot be used"),
        ({"SSL_CERT_FILE": "/none.pem"}, "ALL_PROXY or SSL_CERT_FILE has a value that cannot be used"),
        ({"HF_ENDPOINT": ""}, "the Hub at HF_ENDPOINT= cannot"),
        ({"HF_ENDPOINT": "huggingface.co"}, "the Hub at huggingface.co cannot be reached"),
        ({"HF_ENDPOINT": "ftp://huggingface.co"}, "cannot be reached .UnsupportedProtocol"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the Hub at http://127.0.0.1:9 cannot be reached"),
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_TOKEN": "hf_SEC\tRET"}, "the token holds characters that no token has"),
        ({"HF_TOKEN": "hf_SECRÉT"}, "the token holds characters that no token has"),
        ({"HF_TOKEN": "", "HF_TOKEN_PATH": "/"}, "the token file / cannot be read"),
        ({"HF_TOKEN": ""}, "no such repository, or a private one"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_one_line_without_the_token(
    hub: LoopbackHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, str],
    expected: str,
) -> None:
    settings(tmp_path, monkeypatch, **{"HF_ENDPOINT": hub.url} | values)
    with pytest.raises(InputError, match=expected) as raised:
        fetch(tmp_path / "model")
    assert "hf_SEC" not in cli.redacted(str(raised.value))


@pytest.mark.parametrize(
    "setting", [{"HF_ENDPOINT": "http://[::1"}, {"HF_HUB_ETAG_TIMEOUT": "soon"}], ids=str
)
def test_a_setting_that_the_library_cannot_read_is_one_line(tmp_path: Path, setting: dict[str, str]) -> None:
    result = run_script("push_to_hub.py", "--repo", REPO, cwd=tmp_path, env=setting)
    assert_one_line_error(result, "an HF_... environment variable")


def test_a_web_page_instead_of_the_hub_is_one_line(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.append(Fault("html", path=INFO))
    with pytest.raises(InputError, match="is not the Hub"):
        fetch(tmp_path / "model")
    hub.faults.append(Fault("html", "HEAD", "/resolve/", times=None))
    with pytest.raises(InputError):
        fetch(tmp_path / "model")


def test_a_sharded_model_is_fetched_and_nothing_else(hub: LoopbackHub, tmp_path: Path) -> None:
    origin = fetch(tmp_path / "model", revision="main")
    names = {path.name for path in (tmp_path / "model").iterdir() if path.is_file()}
    assert names == {name for name in FILES if client.is_model_file(name)}
    repo = hub.repo(REPO)
    assert repo
    assert (origin["commit"], origin["cache"], origin["private"]) == (repo.head, "fresh", True)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b"a"}, r"is an adapter \(PEFT\)"),
        (
            {**dict.fromkeys(FILES), "config.json": b"{}", "pytorch_model.bin": b"p"},
            r"pickled \(pytorch_model.bin\)",
        ),
        ({**dict.fromkeys(FILES), "config.json": b"{}"}, "it has no weights"),
        (dict.fromkeys(FILES), "it has no config.json"),
        ({"config.json": b'{"auto_map": {}}'}, "needs code from its repository"),
    ],
)
def test_a_repository_that_cannot_be_loaded_says_why(
    hub: LoopbackHub, tmp_path: Path, changes: dict[str, bytes | None], expected: str
) -> None:
    repo = hub.repo(REPO)
    assert repo
    repo.commit(changes, "another kind of model")
    with pytest.raises(InputError, match=expected):
        fetch(tmp_path / "model")


def test_a_passing_fault_while_downloading_is_repeated(hub: LoopbackHub, tmp_path: Path) -> None:
    for number, fault in enumerate(
        (
            Fault("status", path=INFO, status=500, times=2),
            Fault("status", path="/tree/", status=503),
            Fault("status", "HEAD", "00001-of", status=502),
            Fault("lost_answer", path="/tree/"),
        )
    ):
        hub.faults.append(fault)
        fetch(tmp_path / str(number))
        assert fault.times == 0


def test_a_byte_changed_on_the_way_is_found(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.append(Fault("flip_byte", path="00002-of-00002"))
    with pytest.raises(CheckFailed, match=r"model-00002-of-00002.safetensors was damaged on the way"):
        fetch(tmp_path / "model")


def test_a_kept_model_is_used_while_every_hash_is_right(hub: LoopbackHub, tmp_path: Path) -> None:
    def weights_fetched() -> int:
        count = len([r for r in hub.requests if r.method == "GET" and "of-00002" in r.path])
        hub.requests.clear()
        return count

    cache = tmp_path / "cache"
    assert fetch(tmp_path / "1", cache)["cache"] == "fresh"
    assert weights_fetched() == 2
    assert fetch(tmp_path / "2", cache)["cache"] == "4 of 4 files, checked"
    assert weights_fetched() == 0
    kept = (tmp_path / "2").resolve()
    for number, damage in enumerate(
        (
            lambda: (kept / "model-00001-of-00002.safetensors").write_bytes(b"c" * 3000),
            lambda: (kept / "adapter_config.json").write_text("{}"),
            lambda: (kept / "config.json").unlink(),
        )
    ):
        damage()
        assert fetch(tmp_path / f"damaged {number}", cache)["cache"] == "fresh"
        names = {path.name for path in kept.iterdir() if path.is_file()}
        assert names == {name for name in FILES if client.is_model_file(name)}
    assert weights_fetched() == 4

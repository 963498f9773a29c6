"""Models of the Hub: fetched whole, proved by hash, kept for the next run."""

from collections.abc import Callable
from pathlib import Path

import pytest

from goodreads.common.errors import CheckFailed, InputError
from goodreads.hub.client import attempt
from goodreads.hub.model_source import download, find_model
from tools.loopback_hub import Fault, LoopbackHub, Repo

Files = dict[str, bytes | None]
Damage = Callable[[Path], object]
REPO = "ada/genres"
SHARD = "model-00001-of-00002.safetensors"
MODEL = {
    "config.json": b"{}",
    "model.safetensors.index.json": b"{}",
    SHARD: b"a" * 3000,
    "model-00002-of-00002.safetensors": b"b" * 3000,
}
OTHERS = {"training_args.bin": b"pickle", "onnx/model.safetensors": b"another model"}
GONE = dict.fromkeys(MODEL)


@pytest.fixture(autouse=True)
def sharded(repo: Repo) -> Repo:
    repo.commit({**MODEL, **OTHERS}, "a sharded model")
    return repo


def fetch(cache: Path) -> dict[str, bytes]:
    """The files of the model, by name."""
    folder, _ = attempt(REPO, lambda api: download(api, REPO, None, cache))
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({**GONE, "adapter_config.json": b"{}", "adapter_model.safetensors": b"a"}, "merge an adapter"),
        ({**GONE, "config.json": b"{}", "pytorch_model.bin": b"p"}, "pickles are never loaded"),
    ],
)
def test_unusable_models_are_named(sharded: Repo, tmp_path: Path, changes: Files, expected: str) -> None:
    sharded.commit(changes, "another kind of model")
    with pytest.raises(InputError, match=f"^{REPO} .*{expected}"):
        find_model(REPO, None, None, tmp_path)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", path=f"{REPO}$", status=500, times=2),
        Fault("status", path="/tree/", status=503),
        Fault("status", "HEAD", "00001-of", status=502),
        Fault("lost_answer", path="/tree/"),
        Fault("cut_download", path="00001-of"),
        Fault("flip_byte", path="00002-of-00002"),
    ],
)
def test_after_a_passing_fault_the_model_is_whole(hub: LoopbackHub, tmp_path: Path, fault: Fault) -> None:
    hub.faults.append(fault)
    assert fetch(tmp_path / "cache") == MODEL
    assert fault.times == 0


def test_a_byte_that_is_always_changed_on_the_way_fails_the_check(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.append(Fault("flip_byte", path="00002-of-00002", times=None))
    with pytest.raises(CheckFailed, match=r"model-00002-of-00002.safetensors was damaged on the way"):
        fetch(tmp_path)


@pytest.mark.parametrize(
    ("damage", "fetched"),
    [
        (lambda kept: None, 0),
        (lambda kept: (kept / SHARD).write_bytes(b"c" * 3000), 4),
        (lambda kept: (kept / "adapter_config.json").write_text("{}"), 4),
        (lambda kept: (kept / "config.json").unlink(), 1),
    ],
)
def test_a_kept_model_is_checked(hub: LoopbackHub, tmp_path: Path, damage: Damage, fetched: int) -> None:
    fetch(tmp_path)
    damage(next(tmp_path.glob("ada--genres--*")))
    hub.requests.clear()
    assert fetch(tmp_path) == MODEL
    assert len([r for r in hub.requests if r.method == "GET" and "/resolve/" in r.path]) == fetched

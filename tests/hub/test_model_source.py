"""Models of the Hub: fetched whole, proved by hash, kept for the next run."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from goodreads.common.errors import CheckFailed, InputError
from goodreads.hub.model_source import download, find_model
from tools.loopback_hub import Fault, LoopbackHub, Repo

REPO = "ada/genres"
MODEL = {
    "config.json": b"{}",
    "model.safetensors.index.json": b"{}",
    "model-00001-of-00002.safetensors": b"a" * 3000,
    "model-00002-of-00002.safetensors": b"b" * 3000,
}
OTHERS = {"training_args.bin": b"pickle", "onnx/model.safetensors": b"another model"}
GONE = dict.fromkeys(MODEL)


@pytest.fixture(autouse=True)
def sharded(repo: Repo) -> Repo:
    repo.commit({**MODEL, **OTHERS}, "a sharded model")
    return repo


def test_a_sharded_model_is_fetched_and_nothing_else(sharded: Repo, tmp_path: Path) -> None:
    folder, origin = download(REPO, "main", tmp_path)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == MODEL
    assert (origin["commit"], origin["cache"], origin["revision"]) == (sharded.head, "fresh", "main")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({**GONE, "adapter_config.json": b"{}", "adapter_model.safetensors": b"a"}, "holds an adapter alone"),
        ({**GONE, "config.json": b"{}", "pytorch_model.bin": b"p"}, "pickles are never loaded"),
    ],
)
def test_what_cannot_be_loaded_is_named_by_its_repository(
    sharded: Repo, tmp_path: Path, changes: dict[str, bytes | None], expected: str
) -> None:
    sharded.commit(changes, "another kind of model")
    with pytest.raises(InputError, match=f"^(--model )?{REPO} .*{expected}"):
        find_model(REPO, None, None, tmp_path)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", path=f"{REPO}$", status=500, times=2),
        Fault("status", path="/tree/", status=503),
        Fault("status", "HEAD", "00001-of", status=502),
        Fault("lost_answer", path="/tree/"),
        Fault("cut_download", path="00001-of"),
    ],
)
def test_a_passing_fault_is_repeated(hub: LoopbackHub, tmp_path: Path, fault: Fault) -> None:
    hub.faults.append(fault)
    download(REPO, None, tmp_path / "cache")
    assert fault.times == 0


def test_a_byte_changed_on_the_way_is_found_and_fetched_again_next_time(
    hub: LoopbackHub, tmp_path: Path
) -> None:
    hub.faults.append(Fault("flip_byte", path="00002-of-00002"))
    with pytest.raises(CheckFailed, match=r"model-00002-of-00002.safetensors was damaged on the way"):
        download(REPO, None, tmp_path)
    folder, _ = download(REPO, None, tmp_path)
    assert (folder / "model-00002-of-00002.safetensors").read_bytes() == b"b" * 3000


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # no file above 2,000 bytes can be written
    try:
        with pytest.raises(InputError, match=f"--model {REPO}: .*File too large"):
            download(REPO, None, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("damage", "fetched", "cache"),
    [
        (lambda kept: None, 0, "4 of 4 files, checked"),
        (lambda kept: (kept / "model-00001-of-00002.safetensors").write_bytes(b"c" * 3000), 1, "fresh"),
        (lambda kept: (kept / "adapter_config.json").write_text("{}"), 0, "fresh"),
        (lambda kept: (kept / "config.json").unlink(), 1, "fresh"),
    ],
)
def test_a_kept_model_is_used_as_far_as_every_hash_is_right(
    hub: LoopbackHub, tmp_path: Path, damage: Callable[[Path], object], fetched: int, cache: str
) -> None:
    kept, _ = download(REPO, None, tmp_path)
    damage(kept)
    hub.requests.clear()
    again, origin = download(REPO, None, tmp_path)
    assert (again, origin["cache"]) == (kept, cache)
    assert len([r for r in hub.requests if r.method == "GET" and "/resolve/" in r.path]) == fetched
    assert {path.name: path.read_bytes() for path in kept.iterdir() if path.is_file()} == MODEL

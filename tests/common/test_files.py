"""Files and folders that are whole or absent, whatever happens meanwhile."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from goodreads.common import files
from goodreads.common.errors import InputError
from goodreads.common.files import (
    atomic_files,
    atomic_folder,
    atomic_path,
    check_writable,
    locked,
    write_json,
)
from tests.helpers import ROOT, temporary_files

SIZE = 300_000
WAYS = pytest.mark.parametrize("way", ["path", "files", "folder"])


def make(way: str, place: Path, text: str) -> None:
    """Write into the folder ``place`` once, in one of the three ways."""
    if way == "path":
        files.write_text(place / "a", text * SIZE)
        return
    with (atomic_files if way == "files" else atomic_folder)(place) as temporary:
        for name in ("a", "b", "c.json"):
            (temporary / name).write_text(text * SIZE)


def made(place: Path) -> set[str]:
    """The characters of the files that ``make`` wrote, each of which must be whole and uniform."""
    texts = {path.read_text() for path in place.iterdir() if path.name in ("a", "b", "c.json")}
    assert {len(text) for text in texts} == {SIZE}
    assert all(len(set(text)) == 1 for text in texts)
    return {text[0] for text in texts}


def start(code: str, *args: object) -> subprocess.Popen[str]:
    """A process that has this module's names and has printed a line."""
    command = [sys.executable, "-c", f"from tests.common.test_files import *\n{code}", *map(str, args)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, text=True, **pipes)
    assert process.stdout
    assert process.stdout.readline()
    return process


@WAYS
def test_a_kill_at_any_moment_leaves_whole_files(tmp_path: Path, way: str) -> None:
    place = tmp_path / "place"
    make(way, place, "0")
    (place / "stranger").touch()
    loop = f"print('ready', flush=True)\nfor i in range(10**6): make({way!r}, Path(sys.argv[1]), str(i % 10))"
    chance = random.Random(7)
    for _ in range(4):
        process = start(loop, place)
        time.sleep(chance.uniform(0.005, 0.08))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not place.exists():  # between the two renames of a folder: the new one is complete
            assert way == "folder"
            (temporary_files(tmp_path)[0]).replace(place)
        assert len(made(place)) == 1 or way == "files"
    for folder in (place, tmp_path):
        with locked(folder):
            assert [path for path in temporary_files(folder) if path.parent == folder] == []
    assert (place / "stranger").exists() == (way != "folder")


@WAYS
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionResetError(104, "reset"), ValueError("x")])
def test_an_error_in_the_block_changes_nothing(tmp_path: Path, way: str, error: BaseException) -> None:
    make(way, tmp_path / "place", "1")
    manager = {"path": atomic_path, "files": atomic_files, "folder": atomic_folder}[way]
    with (
        pytest.raises(type(error)),
        manager(tmp_path / "place" / ("a" if way == "path" else "")) as temporary,
    ):
        (temporary if way == "path" else temporary / "a").write_text("half")
        raise error
    assert made(tmp_path / "place") == {"1"}
    assert not temporary_files(tmp_path)


@WAYS
def test_links_stay_links(tmp_path: Path, way: str) -> None:
    (tmp_path / "link").symlink_to("real")
    check_writable(tmp_path / "link")
    with locked(tmp_path / "link"):
        make(way, tmp_path / "link", "0")
    make(way, tmp_path / "link", "1")
    assert (tmp_path / "link").is_symlink()
    assert made(tmp_path / "real") == {"1"}
    if way != "folder":
        (tmp_path / "place").mkdir()
        (tmp_path / "place" / "a").symlink_to("../real/a")
        make(way, tmp_path / "place", "2")
        assert (tmp_path / "place" / "a").is_symlink()
        assert set((tmp_path / "real" / "a").read_text()) == {"2"}
    assert not temporary_files(tmp_path)


@pytest.fixture(params=["-t tmpfs none", "--bind other", "-t tmpfs -o size=64k none"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A mount point: another file system, a folder of the same one, or one with 64 kB."""
    (tmp_path / "place").mkdir()
    (tmp_path / "other").mkdir()
    command = ["mount", *request.param.split(), "place"]
    if os.geteuid() or subprocess.run(command, cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this user cannot mount")
    yield tmp_path / "place"
    subprocess.run(["umount", "place"], cwd=tmp_path, check=True)


@pytest.mark.parametrize("way", ["path", "folder"])
def test_mount_points_are_written_or_left_as_they_were(mounted: Path, way: str) -> None:
    (mounted / "a").write_text("old")
    (mounted / "b").mkdir()  # a folder that a file replaces
    if os.statvfs(mounted).f_blocks * os.statvfs(mounted).f_frsize < SIZE:
        with pytest.raises(InputError, match="No space left on device"):
            make(way, mounted, "1")
        assert (mounted / "a").read_text() == "old"
    else:
        make(way, mounted, "1")
        assert set((mounted / "a").read_text()) == {"1"}
    assert not temporary_files(mounted.parent)


def test_a_folder_in_a_read_only_one_gets_its_files_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "place" / "sub").mkdir(parents=True)
    (tmp_path / "place" / files.LOCK).touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    make("folder", tmp_path / "place", "1")
    assert {path.name for path in (tmp_path / "place").iterdir()} == {"a", "b", "c.json", files.LOCK}


def test_a_folder_whose_successor_fails_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("folder", tmp_path / "place", "0")
    rename, refused = Path.replace, []

    def refuse_once(path: Path, target: Path) -> Path:
        if target == tmp_path / "place" and not refused:
            refused.append(path)
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", refuse_once)
    with pytest.raises(InputError, match="Input/output"):
        make("folder", tmp_path / "place", "1")
    assert made(tmp_path / "place") == {"0"}


def test_a_file_above_the_limit_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    make("path", tmp_path, "0")
    limit, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, limit[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*: File too large"):
            make("path", tmp_path, "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert made(tmp_path) == {"0"}


@WAYS
@pytest.mark.parametrize("name", ["a" * 250, "本" * 80, "sp ace\n'\"$x", "*[?", "\udcff\udc80"])
def test_odd_names(tmp_path: Path, name: str, way: str) -> None:
    make(way, tmp_path / name, "1")
    with locked(tmp_path / name):
        assert made(tmp_path / name) == {"1"}
    write_json(tmp_path / "x.json", {"path": name})
    assert files.read_json(tmp_path / "x.json", "make it") == {"path": name}


@pytest.mark.parametrize("link", [None, "/proc/nowhere", "place"], ids=["a file", "dangling", "to itself"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path: Path, link: str | None) -> None:
    (tmp_path / "place").symlink_to(link) if link else (tmp_path / "place").touch()
    with pytest.raises(InputError, match=r"cannot write .*place.*name another folder"):
        check_writable(tmp_path / "place" / "sub")
    for attempt in (locked, atomic_folder, atomic_files, atomic_path):
        for place in (tmp_path / "place" / "sub", Path("/proc/goodreads")):
            with pytest.raises(InputError, match="cannot write"), attempt(place):
                place.write_text("x")


def test_one_process_at_a_time_and_more_than_once_by_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holder = start(
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()", tmp_path / "x"
    )
    (tmp_path / "link").symlink_to("x")
    make("folder", tmp_path / "x", "1")  # the lock moves on with the folder
    for place in (tmp_path / "x", tmp_path / "link"):
        with pytest.raises(InputError, match="another run is writing to"), locked(place, wait=False):
            pass
    assert holder.stdin
    holder.stdin.close()
    with caplog.at_level("WARNING", "goodreads"), locked(tmp_path / "x"), locked(tmp_path / "link"):
        assert "waiting for it to end" in caplog.text or holder.wait() == 0
    holder.wait()


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    loop = "print('ready', flush=True)\nfor _ in range(30): make('path', Path(sys.argv[1]), sys.argv[2])"
    for process in [start(loop, tmp_path, text) for text in "12"]:
        assert process.communicate()[1] == ""
    assert made(tmp_path) in ({"1"}, {"2"})
    assert not temporary_files(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing; make it with: x.py"),
        (b"{", "is damaged .*make it again with: x.py"),
        (b"\xff\xfe", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"[]", "is not a JSON object"),
    ],
)
def test_reading_json_says_what_is_wrong(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=said):
        files.read_json(tmp_path / "x.json", "x.py")
    with pytest.raises(InputError, match="cannot read"):
        files.read_json(tmp_path, "x.py")


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    files.write_text(tmp_path / "x", "ä\nb\n")
    said = subprocess.run(["sha256sum", str(tmp_path / "x")], capture_output=True, text=True).stdout.split()
    assert files.sha256_file(tmp_path / "x") == files.sha256_lines(["ä", "b"]) == said[0]

"""Files and folders that are whole or absent, whatever happens meanwhile."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
    read_json,
    sha256_file,
    sha256_lines,
    write_json,
    write_text,
)
from tests.helpers import ROOT, temporary_files

SIZE = 300_000


def fill(folder: Path, text: str) -> None:
    for name in ("a", "b", "c.json"):
        (folder / name).write_text(text * SIZE)


def make(way: str, place: Path, text: str) -> None:
    """Write ``place`` once, in one of the three ways."""
    if way == "path":
        write_text(place / "a", text * SIZE)
    else:
        with {"files": atomic_files, "folder": atomic_folder}[way](place) as temporary:
            fill(temporary, text)


def start(code: str, *args: object) -> subprocess.Popen[str]:
    """A process that has this module's names and says when it is ready."""
    code = "from tests.common.test_files import *\nprint('ready', flush=True)\n" + code
    command = [sys.executable, "-c", code, *map(str, args)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("way", ["path", "files", "folder"])
def test_a_kill_at_any_moment_leaves_whole_files(tmp_path: Path, way: str) -> None:
    place = tmp_path / "place"
    make(way, place, "0")
    (place / "stranger").write_text("stays unless the folder is replaced")
    loop = f"for i in range(10**6): make({way!r}, Path(sys.argv[1]), str(i % 10))"
    chance = random.Random(7)
    for _ in range(4):
        process = start(loop, place)
        time.sleep(chance.uniform(0.005, 0.08))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if not place.exists():  # between the two renames of a folder: the new one is complete
            assert way == "folder"
            (temporary_files(tmp_path)[0]).replace(place)
        texts = {path.read_text() for path in place.iterdir() if path.name in ("a", "b", "c.json")}
        assert {len(text) for text in texts} == {SIZE}
        assert all(len(set(text)) == 1 for text in texts)
        assert len(texts) == 1 or way == "files"
    for folder in (place, tmp_path):
        with locked(folder):
            assert [path for path in temporary_files(folder) if path.parent == folder] == []
    assert (place / "stranger").exists() == (way != "folder")


@pytest.mark.parametrize("way", ["path", "files", "folder"])
def test_an_error_in_the_block_changes_nothing(tmp_path: Path, way: str) -> None:
    make(way, tmp_path / "place", "1")
    before = {path: path.read_bytes() for path in (tmp_path / "place").iterdir()}
    manager = {"path": atomic_path, "files": atomic_files, "folder": atomic_folder}[way]
    for error in (KeyboardInterrupt(), ConnectionResetError(104, "reset by peer"), ValueError("x")):
        with (
            pytest.raises(type(error)),
            manager(tmp_path / "place" / "a" if way == "path" else tmp_path / "place") as t,
        ):
            (t if way == "path" else t / "a").write_text("half")
            raise error
    assert {path: path.read_bytes() for path in (tmp_path / "place").iterdir()} == before
    assert not temporary_files(tmp_path)


@pytest.mark.parametrize("way", ["path", "files", "folder"])
def test_links_stay_links(tmp_path: Path, way: str) -> None:
    make(way, tmp_path / "real", "0")
    (tmp_path / "link").symlink_to("real")
    make(way, tmp_path / "link", "1")
    assert (tmp_path / "link").is_symlink()
    assert set((tmp_path / "real" / "a").read_text()) == {"1"}
    if way != "folder":
        (tmp_path / "place").mkdir()
        (tmp_path / "place" / "a").symlink_to("../real/a")
        make(way, tmp_path / "place", "2")
        assert (tmp_path / "place" / "a").is_symlink()
        assert set((tmp_path / "real" / "a").read_text()) == {"2"}
    assert not temporary_files(tmp_path)


@pytest.fixture(params=["tmpfs", "bind", "small"])
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A mount point: another file system, a folder of the same one, or one with 64 kB."""
    place, other = tmp_path / "place", tmp_path / "other"
    place.mkdir()
    other.mkdir()
    kind = {
        "bind": ["--bind", other],
        "tmpfs": ["-t", "tmpfs", "none"],
        "small": ["-t", "tmpfs", "-o", "size=64k", "none"],
    }
    mount = ["mount", *map(str, kind[request.param]), str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("way", ["path", "files", "folder"])
def test_mount_points_are_written_or_left_as_they_were(mounted: Path, way: str) -> None:
    (mounted / "a").write_text("old")
    (mounted / "b").mkdir()  # a folder that a file replaces
    if os.statvfs(mounted).f_blocks * os.statvfs(mounted).f_frsize < SIZE:
        with pytest.raises(InputError, match="No space left on device"):
            make(way, mounted, "1")
        assert (mounted / "a").read_text() == "old"
    elif way != "files":
        make(way, mounted, "1")
        assert set((mounted / "a").read_text()) == {"1"}
    assert not temporary_files(mounted.parent)


def test_a_folder_whose_parent_is_read_only_gets_its_files_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "place" / "sub").mkdir(parents=True)
    (tmp_path / "place" / "old").touch()
    (tmp_path / "place" / files.LOCK).touch()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    make("folder", tmp_path / "place", "1")
    assert {path.name for path in (tmp_path / "place").iterdir()} == {"a", "b", "c.json", files.LOCK}


def test_a_folder_that_cannot_take_its_name_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("folder", tmp_path / "place", "0")
    rename = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if target == tmp_path / "place" and "c.json" in os.listdir(path) and (path / "new").exists():  # noqa: PTH208
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(InputError, match="Input/output"), atomic_folder(tmp_path / "place") as temporary:
        fill(temporary, "1")
        (temporary / "new").touch()
    assert set((tmp_path / "place" / "a").read_text()) == {"0"}


def test_a_file_larger_than_the_limit_is_one_line_and_leaves_the_old_one(tmp_path: Path) -> None:
    make("path", tmp_path, "0")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        with pytest.raises(InputError, match=r"cannot write .*: File too large"):
            make("path", tmp_path, "1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert set((tmp_path / "a").read_text()) == {"0"}


@pytest.mark.parametrize("name", ["a" * 250, "本" * 80, "sp ace\n'\"$x", "*[?", "\udcff\udc80"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    for way, place in (("path", tmp_path / name), ("files", tmp_path / name), ("folder", tmp_path / name)):
        make(way, place, "1")
        with locked(place):
            assert set((place / "a").read_text()) == {"1"}
    write_json(tmp_path / f"{name[:80]}.x", {"path": name})
    assert read_json(tmp_path / f"{name[:80]}.x", "make it") == {"path": name}


@pytest.mark.parametrize(
    ("arrange", "said"),
    [
        (lambda place: place.write_text(""), "Not a directory|File exists"),
        (lambda place: place.symlink_to("nowhere/at/all"), "No such file|Not a directory|File exists"),
        (lambda place: place.symlink_to(place.name), "symbolic links|File exists"),
    ],
    ids=["a file", "a dangling link", "a link to itself"],
)
def test_a_place_that_cannot_be_written_is_found_before_the_work(
    tmp_path: Path, arrange: Callable[[Path], object], said: str
) -> None:
    arrange(tmp_path / "place")
    with pytest.raises(InputError, match=f"cannot write .*place.*({said})"):
        check_writable(tmp_path / "place" / "sub")
    with pytest.raises(InputError, match="cannot write"), locked(tmp_path / "place" / "sub"):
        pass


def test_a_read_only_file_system_is_one_line() -> None:
    place = next(path for path in (Path("/proc/goodreads"), Path("/sys/goodreads")) if path.parent.is_dir())
    for attempt in (locked, atomic_folder, atomic_files, atomic_path):
        with pytest.raises(InputError, match="cannot write"), attempt(place):
            place.write_text("x")
    with pytest.raises(InputError, match=r"cannot write .* name another folder"):
        check_writable(place)


def test_one_process_at_a_time_and_more_than_once_by_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    code = "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", f"from tests.common.test_files import *\n{code}", str(tmp_path / "x")],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout and holder.stdin
    assert holder.stdout.readline() == "held\n"
    (tmp_path / "link").symlink_to("x")
    with pytest.raises(InputError, match="another run is writing to"), locked(tmp_path / "link", wait=False):
        pass
    make("folder", tmp_path / "x", "1")  # the lock moves on with the folder
    with pytest.raises(InputError, match="another run"), locked(tmp_path / "x", wait=False):
        pass
    holder.stdin.close()
    with caplog.at_level("WARNING", "goodreads"), locked(tmp_path / "x"), locked(tmp_path / "link"):
        assert "waiting for it to end" in caplog.text or holder.wait() == 0
    holder.wait()


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    loop = "for _ in range(30): make('path', Path(sys.argv[1]), sys.argv[2])"
    for process in [start(loop, tmp_path, text) for text in "12"]:
        assert process.communicate()[1] == ""
        assert process.returncode == 0
    assert set((tmp_path / "a").read_text()) in ({"1"}, {"2"})
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
        read_json(tmp_path / "x.json", "x.py")
    with pytest.raises(InputError, match="cannot read"):
        read_json(tmp_path, "x.py")


def test_numbers_that_json_does_not_know_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "ä\nb\n")
    said = subprocess.run(["sha256sum", str(tmp_path / "x")], capture_output=True, text=True).stdout.split()[
        0
    ]
    assert sha256_file(tmp_path / "x") == sha256_lines(["ä", "b"]) == said
    assert json.loads(json.dumps(said)) == said

"""Files and folders that are whole or absent, whatever happens meanwhile."""

import fcntl
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from threading import Timer
from unittest import mock

import pytest

from goodreads.common import files
from goodreads.common.errors import InputError
from goodreads.common.files import atomic_files, check_writable, locked
from tests.helpers import ROOT, temporary_files

SIZE = 300_000
NAMES = ("a", "b", "c.json")
WAYS = pytest.mark.parametrize("way", ["text", "files", "alone"])


def make(way: str, place: Path, text: str) -> None:
    """Write into the folder ``place`` once, in one of the three ways."""
    if way == "text":
        files.write_text(place / "a", text * SIZE)
        return
    with atomic_files(place, alone=way == "alone") as new:
        for name in NAMES:
            (new / name).write_text(text * SIZE)


def made(place: Path) -> set[str]:
    """The characters of the files that ``make`` wrote, each of which must be whole and uniform."""
    assert not temporary_files(place)
    texts = {path.read_text() for path in place.iterdir() if path.name in NAMES}
    assert all(text == text[0] * SIZE for text in texts)
    return {text[0] for text in texts}


@WAYS
def test_a_kill_at_any_moment_leaves_whole_files(tmp_path: Path, way: str) -> None:
    place, chance = tmp_path / "place", random.Random(7)
    make(way, place, "0")
    (place / "stranger").touch()
    loop = "from tests.common.test_files import *\nprint('ready', flush=True)\n"
    loop += f"for i in range(10**6): make({way!r}, Path({str(place)!r}), str(i % 10))"
    for _ in range(4):
        with subprocess.Popen([sys.executable, "-c", loop], cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout and process.stdout.readline()
            time.sleep(chance.uniform(0.005, 0.08))
            process.kill()
        with locked(place):
            assert len(made(place)) <= 1 or way == "files"
    assert (place / "stranger").exists() == (way != "alone")


@WAYS
@pytest.mark.parametrize("error", [KeyboardInterrupt("^C"), OSError(28, "No space left on device")])
def test_an_error_before_all_is_written_changes_nothing(tmp_path: Path, way: str, error: Exception) -> None:
    make(way, tmp_path, "1")
    said = pytest.raises((KeyboardInterrupt, InputError), match=r"\^C|write .*: No space left .*; free space")
    with said, mock.patch.object(os, "fsync", side_effect=error):
        make(way, tmp_path, "2")
    assert made(tmp_path) == {"1"}


@WAYS
@pytest.mark.parametrize(
    "make_place", ["ln -s real place", "mount -t tmpfs none place", "mount --bind real place"]
)
def test_links_and_mount_points_stay_what_they_are(tmp_path: Path, way: str, make_place: str) -> None:
    place, is_mount = tmp_path / "place", make_place.startswith("mount")
    for name in ("real", "place") if is_mount else ():
        (tmp_path / name).mkdir()
    if subprocess.run(make_place.split(), cwd=tmp_path, capture_output=True).returncode:
        pytest.skip("this user cannot mount")
    try:
        check_writable(place)
        for text in "01":
            with locked(place):
                make(way, place, text)
        assert made(place) == {"1"}
        assert is_mount or place.is_symlink()
    finally:
        if is_mount:
            subprocess.run(["umount", "place"], cwd=tmp_path, check=True)


@WAYS
def test_links_to_files_stay_links(tmp_path: Path, way: str) -> None:
    make(way, tmp_path / "real", "0")
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "a").symlink_to("../real/a")
    make(way, tmp_path / "place", "1")
    assert (tmp_path / "place" / "a").is_symlink() == (way != "alone")
    assert made(tmp_path / "place") == {"1"}


@pytest.mark.parametrize("name", ["a" * 250, "本" * 80, "sp ace\n'\"$x", "*[?", "\udcff\udc80"])
def test_odd_names(tmp_path: Path, name: str) -> None:
    make("files", tmp_path / name, "1")
    with locked(tmp_path / name):
        assert made(tmp_path / name) == {"1"}
    files.write_json(tmp_path / "x.json", {"path": name})
    assert files.read_json(tmp_path / "x.json", "make it") == {"path": name}


@pytest.mark.parametrize("link", [None, "/proc/nowhere", "place"], ids=["a file", "dangling", "to itself"])
def test_a_place_that_cannot_be_written_is_found_before_the_work(tmp_path: Path, link: str | None) -> None:
    (tmp_path / "place").symlink_to(link) if link else (tmp_path / "place").touch()
    for place in (tmp_path / "place" / "sub", Path("/proc/goodreads")):
        for attempt in (locked, atomic_files):
            with pytest.raises(InputError, match="cannot write"), attempt(place):
                pass
        with pytest.raises(InputError, match=r"cannot write .*as user \d+.*another folder.*containers.md"):
            check_writable(place)


def test_one_run_at_a_time_holds_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    places = (tmp_path / "x", tmp_path / "link")
    places[0].mkdir()
    places[1].symlink_to("x")
    other = (places[0] / files.LOCK).open("w")
    fcntl.flock(other, fcntl.LOCK_EX)  # as another process does
    for place in places:
        with pytest.raises(InputError, match="another run is writing to"), locked(place, wait=False):
            pass
    Timer(0.2, other.close).start()
    with caplog.at_level("WARNING", "goodreads"), locked(places[0]), locked(places[1]):
        assert "waiting for it to end" in caplog.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing; make it with: x"),
        (b"{", "damaged .*: x"),
        (b"\xff", "damaged"),
        (b"[]", "a JSON object"),
    ],
)
def test_reading_json_says_what_is_wrong(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=said):
        files.read_json(tmp_path / "x.json", "x.py")


def test_hashes_are_those_of_sha256sum(tmp_path: Path) -> None:
    files.write_text(tmp_path / "x", "ä\nb\n")
    said = subprocess.run(["sha256sum", str(tmp_path / "x")], capture_output=True, text=True).stdout.split()
    assert files.sha256_file(tmp_path / "x") == files.sha256_lines(["ä", "b"]) == said[0]

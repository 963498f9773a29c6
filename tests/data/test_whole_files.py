"""Whole files, all reviews in shards, the cache and tolerated bad lines: data_loader.py as a process."""

import contextlib
import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.helpers import assert_one_line_error, command, environment, run_script, succeeded, temporary_files
from tests.loopback import Answer, FileServer
from tests.scripts.test_data_loader import (
    TWO,
    flip_a_byte,
    gz,
    load,
    manifest_of,
    reference_sample,
    reviews,
    rows_of,
    split_bytes,
    write_reviews,
)

ALL = ("--head", "all", "--per-genre", "all", "--test-from", "data", "--output-dir", "everything")


def shards_of(data: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((data / "train").glob("*"))}


def everything(source: object, *options: object, cwd: Path) -> Any:
    return run_script("data_loader.py", "--source", source, *TWO, *ALL, *options, cwd=cwd)


# --head all


def test_a_sample_of_whole_files_is_uniform_reproducible_and_a_genres_own(
    tmp_path: Path, files: Path
) -> None:
    for name, options in (
        ("a", TWO),
        ("b", ("--genres", "romance,poetry,children")),
        ("c", (*TWO, "--seed", 7)),
    ):
        succeeded(load(files, *options, "--head", "all", "--output-dir", name, cwd=tmp_path))
    first, more, other = ({r["review_id"] for r in rows_of(tmp_path / n, "train")} for n in "abc")
    assert first < more
    assert len(first) == 160 > len(first & other)
    assert manifest_of(tmp_path / "a")["read"]["poetry"]["reviews_read"] == 3000
    assert manifest_of(tmp_path / "a")["parameters"]["head"] is None
    with gzip.open(files / gz("poetry"), "rt") as file:
        place = {json.loads(line)["review_id"]: n for n, line in enumerate(file)}
    for name in ("train", "test"):  # both reach the ends of the file
        drawn = sorted(place[r["review_id"]] for r in rows_of(tmp_path / "a", name) if r["genre"] == "poetry")
        assert len(set(drawn)) == len(drawn)
        assert drawn[0] < 600 and drawn[-1] > 2400


# --per-genre all


def test_all_reviews_but_the_test_splits_become_shards_that_datasets_streams(
    tmp_path: Path, files: Path
) -> None:
    many = (
        "--head",
        3000,
        "--per-genre",
        1000,
        "--train-per-genre",
        500,
    )  # so that a short text is among them
    succeeded(load(files, *TWO, *many, cwd=tmp_path))
    result = succeeded(everything(files, cwd=tmp_path))
    data, test = tmp_path / "everything", rows_of(tmp_path / "data", "test")
    assert (data / "test.parquet").read_bytes() == (tmp_path / "data" / "test.parquet").read_bytes()
    ids, texts = {r["review_id"] for r in test}, {r["text"] for r in test if r["text"].strip()}
    expected, held = [], Counter[str]()
    for genre in ("poetry", "romance"):
        with gzip.open(files / gz(genre), "rt", encoding="utf-8") as file:
            for record in map(json.loads, file):
                if record["review_id"] in ids:
                    held["id"] += 1
                elif record["review_text"] in texts:
                    held["text"] += 1
                else:
                    expected.append((record["review_id"], genre, record["review_text"]))
    assert held["id"] == len(test) and held["text"]
    rows = [row for path in sorted((data / "train").glob("*")) for row in pq.read_table(path).to_pylist()]
    assert [(row["review_id"], row["genre"], row["text"]) for row in rows] == expected
    assert {row["label"] for row in rows if row["genre"] == "romance"} == {1}
    manifest = manifest_of(data)
    assert manifest["report"]["held_out_by_review_id"] == held["id"]
    assert manifest["report"]["held_out_by_text"] == held["text"]
    assert manifest["report"]["empty_texts"] == sum(not text.strip() for *_, text in expected)
    assert manifest["splits"]["test"] == manifest_of(tmp_path / "data")["splits"]["test"]
    assert sum(g["reviews"] for g in manifest["splits"]["train"]["genres"].values()) == len(expected)
    assert list(manifest["files"]) == [*(f"train/{name}" for name in shards_of(data)), "test.parquet"]
    assert [line.split()[:2] for line in result.stdout.splitlines()[1:3]] == [
        ["poetry", "3000"],
        ["romance", "3000"],
    ]
    assert temporary_files(data) == [] and not list((data / "train").glob(".*"))

    code = (
        "import sys, datasets\n"
        "files = {'train': sys.argv[1] + '/train/*.parquet', 'test': sys.argv[1] + '/test.parquet'}\n"
        "split = datasets.load_dataset('parquet', data_files=files, streaming=True)\n"
        "print(sum(1 for _ in split['train']), next(iter(split['test']))['review_id'])"
    )
    streamed = subprocess.run(
        [sys.executable, "-c", code, str(data)], env=environment(tmp_path), capture_output=True, text=True
    )
    assert streamed.stdout.split() == [str(len(expected)), test[0]["review_id"]], streamed.stderr[-2000:]


def test_a_second_run_uses_the_shards_and_a_damaged_one_is_made_again(tmp_path: Path, files: Path) -> None:
    succeeded(load(files, *TWO, cwd=tmp_path))
    succeeded(everything(files, cwd=tmp_path))
    before = shards_of(tmp_path / "everything")
    assert "holds this split already" in succeeded(everything(files, cwd=tmp_path)).stderr
    flip_a_byte(tmp_path / "everything" / "train" / "romance-00000.parquet")
    assert "is not the file its manifest describes" in succeeded(everything(files, cwd=tmp_path)).stderr
    assert shards_of(tmp_path / "everything") == before


def test_an_interrupted_run_goes_on_at_the_shard_it_had_reached(tmp_path: Path) -> None:
    """Killed once a genre of two is done and the other has its first shard of 16,384 rows."""
    for genre, count in (("poetry", 300), ("romance", 45_000)):
        write_reviews(tmp_path / "in", genre, reviews(genre, count))
    succeeded(load(tmp_path / "in", *TWO, "--head", 300, cwd=tmp_path))
    script = command("data_loader.py", "--source", tmp_path / "in", *TWO, *ALL)
    small = (
        "import runpy, sys; sys.argv[:] = sys.argv[1:]; sys.path.insert(0, sys.argv[0].rpartition('/')[0])\n"
        "from goodreads.data import full_corpus; full_corpus.SHARD_ROWS = 16_384\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = [script[0], "-c", small, *script[1:]]

    def run_to_end() -> str:
        done = subprocess.run(
            arguments, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    run_to_end()
    data = tmp_path / "everything"
    undisturbed, manifest = shards_of(data), manifest_of(data)
    assert len(undisturbed) == 4
    data.rename(tmp_path / "undisturbed")
    process = subprocess.Popen(arguments, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.DEVNULL)
    first, state = data / "train" / "romance-00000.parquet", data / "train" / ".romance.json"
    end = time.monotonic() + 60
    while not state.exists() and time.monotonic() < end:
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (data / "manifest.json").exists()
    inode = first.stat().st_ino
    stderr = run_to_end()
    assert "romance: going on after" in stderr and "poetry: going on after 1 whole shards" in stderr
    assert first.stat().st_ino == inode
    assert shards_of(data) == undisturbed
    again = manifest_of(data)
    assert {**again, "created": ""} == {**manifest, "created": ""}
    assert temporary_files(data) == [] and not list((data / "train").glob(".*"))


def test_another_test_split_or_other_genres_are_refused(tmp_path: Path, files: Path) -> None:
    assert_one_line_error(everything(files, cwd=tmp_path), "manifest.json is missing", "data_loader.py")
    succeeded(load(files, "--genres", "poetry,children", cwd=tmp_path))
    assert_one_line_error(everything(files, cwd=tmp_path), "--test-from data is of other genres")
    assert not (tmp_path / "everything").exists()


def test_an_ordinary_split_takes_the_shards_place(tmp_path: Path, files: Path) -> None:
    succeeded(load(files, *TWO, cwd=tmp_path))
    succeeded(everything(files, cwd=tmp_path))
    succeeded(load(files, *TWO, "--output-dir", "everything", cwd=tmp_path))
    assert split_bytes(tmp_path / "everything") == split_bytes(tmp_path / "data")
    assert not (tmp_path / "everything" / "train").exists()


# the cache


def test_what_is_cached_is_not_fetched_again_and_more_is_fetched_by_range(
    tmp_path: Path, files: Path
) -> None:
    cached = (*TWO, "--cache", tmp_path / "cache")
    with FileServer(files) as server:
        succeeded(load(server.url, *cached, cwd=tmp_path))
        held = {p.name[13:]: p.stat().st_size for p in (tmp_path / "cache").glob("*.gz")}
        server.wait(active=0)
        assert len(server.requests) == 2
        succeeded(load(server.url, *cached, "--seed", 2, cwd=tmp_path))
        assert len(server.requests) == 2
        succeeded(load(server.url, *cached, "--head", 2500, "--output-dir", "more", cwd=tmp_path))
        server.wait(active=0)
        assert {r.path.rpartition("/")[2]: r.range for r in server.requests[2:]} == {
            name: f"bytes={size}-" for name, size in held.items()
        }
    expected = reference_sample(files, ("poetry", "romance"), 2500, 100)
    ids = [r["review_id"] for records in expected.values() for r in records[:80]]
    assert [row["review_id"] for row in rows_of(tmp_path / "more", "train")] == ids


def test_a_damaged_cache_is_not_believed(tmp_path: Path, files: Path) -> None:
    cached = (*TWO, "--cache", tmp_path / "cache", "--force")
    with FileServer(files) as server:
        succeeded(load(server.url, *cached, cwd=tmp_path))
        before = split_bytes(tmp_path / "data")
        damaged, other = sorted((tmp_path / "cache").glob("*.gz"))
        flip_a_byte(damaged)
        other.with_name(f"{other.name}.json").write_text("{")
        result = succeeded(load(server.url, *cached, cwd=tmp_path))
        assert result.stderr.count("is not used and fetched anew") == 2
        assert split_bytes(tmp_path / "data") == before
        assert [r.range for r in server.requests] == [""] * 4


def test_a_cached_file_that_changed_on_the_server_is_dropped(tmp_path: Path, files: Path) -> None:
    cached = (*TWO, "--cache", tmp_path / "cache")
    with FileServer(files) as server:
        succeeded(load(server.url, *cached, cwd=tmp_path))
        server.answers = {gz(genre): Answer(etag='"two"') for genre in ("poetry", "romance")}
        for _ in range(2):
            result = load(server.url, *cached, "--head", 2500, cwd=tmp_path)
            if result.returncode == 0:
                break
            assert_one_line_error(result, "changed while it was read", "run again")
        else:
            result = load(server.url, *cached, "--head", 2500, cwd=tmp_path)
        succeeded(result)


def test_a_cache_that_another_run_is_using_is_one_line(tmp_path: Path, files: Path) -> None:
    import fcntl

    cached = (*TWO, "--cache", tmp_path / "cache", "--force")
    with FileServer(files) as server:
        succeeded(load(server.url, *cached, cwd=tmp_path))
        with next((tmp_path / "cache").glob("*.gz")).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert_one_line_error(load(server.url, *cached, cwd=tmp_path), "another process is using")


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path: Path, files: Path) -> None:
    (tmp_path / "file").touch()
    with FileServer(files) as server:
        result = load(server.url, *TWO, "--cache", tmp_path / "file" / "x", cwd=tmp_path)
    assert_one_line_error(result, "--cache: cannot write")


# bad lines


def test_bad_lines_are_refused_or_left_out_and_counted(tmp_path: Path, files: Path) -> None:
    lines = [json.dumps(review) for review in reviews("poetry", 100)]
    whole = "\n".join(lines)
    lines[3], lines[70] = "oops", lines[70].replace('"No. 70"', "null")
    for name, text in (("in", "\n".join(lines)), ("whole", whole)):
        write_reviews(tmp_path / name, "romance", reviews("romance", 100))
        (tmp_path / name / gz("poetry")).write_bytes(gzip.compress(text.encode()))
    options = (*TWO, "--head", 100)  # every line is sampled
    assert_one_line_error(
        load("in", *options, cwd=tmp_path), "poetry", "line ", "--max-bad-lines leaves a few out"
    )
    one = load("in", *options, "--max-bad-lines", 1, cwd=tmp_path)
    assert_one_line_error(one, "it is bad line 2 of this file")
    result = succeeded(load("in", *options, "--max-bad-lines", 2, cwd=tmp_path))
    assert result.stderr.count("left out: poetry") == 2
    assert result.stdout.rstrip().endswith("bad lines left out 2")
    bad = manifest_of(tmp_path / "data")["read"]["poetry"]["bad_lines"]
    assert sorted("line 4 is not JSON" in line for line in bad) == [False, True]
    assert sum("line 71 has no review_text of type str" in line for line in bad) == 1
    succeeded(load("whole", *options, "--output-dir", "all", cwd=tmp_path))
    for name in ("train", "test"):  # the others stay where they are
        rows = [
            row for row in rows_of(tmp_path / "all", name) if row["review_id"] not in ("poetry3", "poetry70")
        ]
        assert rows_of(tmp_path / "data", name) == rows


# what a terminal shows


def test_a_terminal_shows_a_live_line_per_genre_with_megabytes_rate_and_retries(
    tmp_path: Path, files: Path
) -> None:
    answers: dict[str, Answer | list[Answer]] = {gz("poetry"): [Answer(cut_at=30_000)]}
    with FileServer(files, delay=0.05, answers=answers) as server:
        process_side, our_side = pty.openpty()
        termios.tcsetwinsize(our_side, (24, 160))
        process = subprocess.Popen(
            command("data_loader.py", "--source", server.url, *TWO, "--head", 3000),
            cwd=tmp_path,
            env=environment(tmp_path),
            stderr=our_side,
            stdout=subprocess.DEVNULL,
        )
        os.close(our_side)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while piece := os.read(process_side, 4096):
                shown += piece
        os.close(process_side)
        assert process.wait() == 0
    text = shown.decode()
    assert re.search(r"poetry: +\d+%.*/3000 .*\d\.\d MB, \d\.\d MB/s, 1 retries", text), text[-2000:]
    assert re.search(r"romance: +\d+%.*/3000 .*\d\.\d MB/s\]", text)

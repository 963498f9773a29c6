"""data_loader.py from end to end, against real files and a real HTTP server on loopback."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.data import reviews as kit
from tests.data.reviews import ORDER, gz, manifest_of, names_in, reference_sample
from tests.helpers import Result, assert_one_line_error, command, environment, run_main, succeeded
from tests.loopback import Answer, FileServer

HEAD, PER_GENRE, TRAIN = 500, 100, 80
SIZES = ("--head", HEAD, "--per-genre", PER_GENRE, "--train-per-genre", TRAIN)
TWO = ("--genres", "poetry,romance")
SPLIT_FILES = ["manifest.json", "test.parquet", "train.parquet"]
CONTENT = ["a5e19ad6e7b134be", "6b7c12239c81d876"]  # of small_data, by version 1
Run = tuple[Path, FileServer, str]  # data folder, server, standard output


def load(source: object, *options: object, cwd: Path) -> Result:
    return run_main("data_loader.py", "--source", source, *options, cwd=cwd)


def started(source: object, *options: object, cwd: Path, kill_at: int = 0) -> subprocess.Popen[str]:
    """A process of its own, which ``kill_at`` ends at a rename."""
    words = command("data_loader.py", "--source", source, *SIZES, *options)
    if kill_at:
        words = [sys.executable, "-c", KILL_AT_RENAME, str(kill_at), *words[1:]]

    def heed_interrupts() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    pipe, env = subprocess.PIPE, environment(cwd)
    return subprocess.Popen(words, cwd=cwd, env=env, stderr=pipe, text=True, preexec_fn=heed_interrupts)


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Run:
    """All eight genres over HTTP, from files far longer than what is read; the server is gone."""
    folder, big = tmp_path_factory.mktemp("streamed"), tmp_path_factory.mktemp("big")
    for path in files.iterdir():
        (big / path.name).write_bytes(path.read_bytes() * 10)  # ten gzip members
    with FileServer(big, delay=0.05) as server:
        result = succeeded(load(server.url, *SIZES, cwd=folder))
        server.wait(active=0)
    shutil.rmtree(big)
    return folder / "data", server, result.stdout


# what is written


def test_streaming_eight_genres_gives_the_reference_sample(streamed: Run, files: Path) -> None:
    data, server, _ = streamed
    manifest, expected = manifest_of(data), reference_sample(files, ORDER, HEAD, PER_GENRE)
    assert (manifest["format"], manifest["labels"]) == (1, sorted(ORDER))
    assert manifest["parameters"] == {
        "source": server.url, "genres": list(ORDER), "head": HEAD, "per_genre": PER_GENRE,
        "train_per_genre": TRAIN, "seed": 42, "drop_duplicates": False, "allow_fewer": False,
        "max_bad_lines": 0, "test_split": "",
    }  # fmt: skip
    for name, part in (("train", slice(TRAIN)), ("test", slice(TRAIN, None))):
        rows, content = kit.rows_of(data, name), (data / f"{name}.parquet").read_bytes()
        assert rows == [
            {key: record[key] for key in ("review_id", "book_id", "user_id", "rating")}
            | {"genre": genre, "label": sorted(ORDER).index(genre), "text": record["review_text"]}
            for genre, records in expected.items()
            for record in records[part]
        ]
        types = {field.name: str(field.type) for field in pq.read_schema(data / f"{name}.parquet")}
        assert types == {key: "int64" if key in ("label", "rating") else "string" for key in rows[0]}
        entry = {"rows": len(rows), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert manifest["files"][f"{name}.parquet"] == entry
        ids = "".join(f"{record['review_id']}\n" for record in expected["romance"][part])
        counts = {"reviews": ids.count("\n"), "review_ids_sha256": hashlib.sha256(ids.encode()).hexdigest()}
        assert manifest["splits"][name]["genres"]["romance"] == counts


def test_the_sample_run_gives_the_split_of_every_earlier_version(small_data: Path) -> None:
    splits = manifest_of(small_data)["splits"]
    assert [splits[name]["content_sha256"][:16] for name in ("train", "test")] == CONTENT


def test_stdout_is_a_table_and_json_and_a_second_run_needs_no_server(streamed: Run) -> None:
    data, server, stdout = streamed
    *table, last = stdout.splitlines()
    assert table[0].split() == ["genre", "read", "train", "test"]
    assert [line.split() for line in table[1:9]] == [[genre, "500", "80", "20"] for genre in ORDER]
    assert table[9:] == ["train reviews also in test 7, removed 0, bad lines left out 0"]
    assert json.loads(last) == {
        "data_dir": "data", "train_reviews": 640, "test_reviews": 160,
        "test_content_sha256": manifest_of(data)["splits"]["test"]["content_sha256"],
    }  # fmt: skip
    again = succeeded(load(server.url, *SIZES, cwd=data.parent))
    assert "holds this split already" in again.stderr and again.stdout == stdout


def test_real_reviews_of_two_genres_give_the_full_protocol(tmp_path: Path, real: Path) -> None:
    genres = ("children", "comics_graphic")
    result = succeeded(load(real / "goodreads", "--genres", ",".join(genres), cwd=tmp_path))
    counts = [["children", "2151", "800", "200"], ["comics_graphic", "2344", "800", "200"]]
    assert [line.split() for line in result.stdout.splitlines()[1:3]] == counts
    expected = reference_sample(real / "goodreads", genres, 10_000, 1_000)
    for name, part in (("train", slice(800)), ("test", slice(800, None))):
        ids = [record["review_id"] for records in expected.values() for record in records[part]]
        assert kit.ids_of(tmp_path / "data", name) == ids


def test_links_and_odd_characters_are_fine_for_samples_and_whole_files(tmp_path: Path, files: Path) -> None:
    odd = os.fsdecode("söme [*] 'dir' \udcff".encode("utf-8", "surrogateescape"))
    (tmp_path / "real").mkdir()
    (tmp_path / odd).symlink_to("real")
    shutil.copytree(files, tmp_path / f"in {odd}")
    everything = ("--head", "all", "--per-genre", "all", "--test-from", odd, "--output-dir", f"all {odd}")
    for options in (("--output-dir", odd, *SIZES), everything):
        for said in ("", "holds this split already"):
            result = succeeded(load(f"in {odd}", *TWO, *options, cwd=tmp_path))
            assert said in result.stderr
    assert (tmp_path / odd).is_symlink() and names_in(tmp_path / "real") == SPLIT_FILES
    *table, last = result.stdout.splitlines()
    assert [line.split()[:2] for line in table[1:3]] == [["poetry", "3000"], ["romance", "3000"]]
    assert table[3].startswith("held out 4") and json.loads(last)["data_dir"] == f"all {odd}"


# how it reads


def test_all_genres_stream_at_once_and_each_stream_is_closed_soon_after_the_last_review_it_needs(
    streamed: Run, files: Path
) -> None:
    data, server, _ = streamed
    read = manifest_of(data)["read"]
    assert len(server.requests) == 8 and server.max_concurrent > 3
    for request in server.requests:
        name = request.path.removeprefix("/byGenre/")
        genre = name.removeprefix("goodreads_reviews_").removesuffix(".json.gz")
        assert read[genre] == {"file": server.url + name, "reviews_read": HEAD, "bad_lines": []}
        packed, unpacker, lines, needed = (files / name).read_bytes(), zlib.decompressobj(wbits=31), 0, 0
        while lines < HEAD:
            lines += unpacker.decompress(packed[needed : needed + 512]).count(b"\n")
            needed += 512
        assert request.closed_early
        # a chunk of the reader and the socket buffers; the file is 3.3 MB
        assert needed - 512 <= request.sent <= needed + 65536 + 1_000_000 < request.total


@pytest.mark.parametrize("answer", [Answer(stall_at=1000, stall=30), Answer()], ids=["stalled", "streaming"])
def test_an_interrupt_ends_all_streams_at_once(tmp_path: Path, files: Path, answer: Answer) -> None:
    with FileServer(files, delay=0.05, answers={gz(genre): answer for genre in ORDER}) as server:
        process = started(server.url, "--head", 3000, cwd=tmp_path)
        server.wait(requests=8)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert time.monotonic() - begun < 6
    assert process.returncode == 130
    assert "error: interrupted" in stderr and "Traceback" not in stderr
    assert names_in(tmp_path) == []


def test_two_runs_at_once_make_one_split(tmp_path: Path, files: Path) -> None:
    """The second waits for the first, and then finds the split there."""
    with FileServer(files, delay=0.05) as server:
        runs = [started(server.url, *TWO, cwd=tmp_path) for _ in range(3)]
        errors = [run.communicate(timeout=60)[1] for run in runs]
        assert [run.returncode for run in runs] == [0, 0, 0], errors
        assert len(server.requests) == 2
    assert sum("another run is writing to data; waiting" in stderr for stderr in errors) >= 1
    assert names_in(tmp_path / "data") == SPLIT_FILES


# errors


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--genres", "poetry,cooking"), ["--genres poetry,cooking", "young_adult"]),
        (("--head", "ten"), ["--head", "ten", "--help"]),
        (("--seed", -1), ["--seed", "at least 0"]),
        (("--source", "nowhere"), ["nowhere/goodreads_reviews_", "No such file", "--source"]),
        (("--output-dir", "a file"), ["cannot write a file"]),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    tmp_path: Path, files: Path, options: tuple[object, ...], fragments: list[str]
) -> None:
    (tmp_path / "a file").write_text("mine")
    result = load(files, *SIZES, *options, cwd=tmp_path)
    assert_one_line_error(result, "data_loader.py: error: ", *fragments)
    assert result.stdout == "" and names_in(tmp_path) == ["a file"]
    assert (tmp_path / "a file").read_text() == "mine"


PAGE = b"<!doctype html><html><head><title>503\nDown for\n repair</title></head></html>"
BAD_LINE = b"".join(json.dumps(review).encode() + b"\n" for review in kit.reviews("p", 122)) + b"oops\n"


@pytest.mark.parametrize(
    ("answer", "fragments"),
    [
        (Answer(404, b"gone"), ["HTTP 404 Not Found", "--source"]),
        (Answer(200, PAGE), ["Not a gzipped file"]),
        (Answer(200, gzip.compress(BAD_LINE)), ["line 123 is not JSON"]),
    ],
    ids=["404", "HTML", "not JSON"],
)
def test_a_bad_file_on_the_server_is_one_line_that_names_it(
    tmp_path: Path, files: Path, answer: Answer, fragments: list[str]
) -> None:
    # --per-genre is --head so that every line is kept and looked at
    with FileServer(files, answers={gz("poetry"): answer}) as server:
        result = load(
            server.url, *TWO, *"--head 123 --per-genre 123 --train-per-genre 80".split(), cwd=tmp_path
        )
    assert_one_line_error(result, server.url + gz("poetry"), *fragments)
    assert names_in(tmp_path) == []


# kills

# runs data_loader.py and kills its own process before a rename: argv is the number of the rename, and then
# data_loader.py's arguments
KILL_AT_RENAME = """
import os, runpy, signal, sys
left, sys.argv[:] = int(sys.argv[1]), sys.argv[2:]
def hook(event, arguments):
    global left
    if event == "os.rename" and os.path.dirname(arguments[1]).endswith("/data"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("existing", [False, True], ids=["no data yet", "data of another seed"])
@pytest.mark.parametrize("rename", [1, 2, 3], ids=["test", "train", "manifest"])
def test_a_run_after_a_kill_gives_the_undisturbed_split(
    tmp_path: Path, files: Path, rename: int, existing: bool
) -> None:
    if existing:
        succeeded(load(files, *SIZES, *TWO, "--seed", 1, cwd=tmp_path))
    process = started(files, *TWO, "--force", cwd=tmp_path, kill_at=rename)
    assert process.wait() == -signal.SIGKILL
    for out in ("data", "undisturbed"):
        succeeded(load(files, *SIZES, *TWO, "--output-dir", out, *["--force"] * existing, cwd=tmp_path))
    assert kit.split_bytes(tmp_path / "data") == kit.split_bytes(tmp_path / "undisturbed")
    assert names_in(tmp_path / "data") == SPLIT_FILES

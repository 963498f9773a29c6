"""data_loader.py from end to end, against real files and a real HTTP server on loopback."""

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.data.reviews import (
    ORDER,
    gz,
    ids_of,
    manifest_of,
    names_in,
    reference_sample,
    reviews,
    rows_of,
    split_bytes,
    write,
    write_reviews,
)
from tests.helpers import (
    Result,
    assert_one_line_error,
    command,
    environment,
    run_main,
    succeeded,
    temporary_files,
)
from tests.loopback import Answer, FileServer, Request

HEAD, PER_GENRE, TRAIN = 500, 100, 80
SIZES = ("--head", HEAD, "--per-genre", PER_GENRE, "--train-per-genre", TRAIN)
TWO = ("--genres", "poetry,romance")
SPLIT_FILES = ["manifest.json", "test.parquet", "train.parquet"]
CONTENT = ["a5e19ad6e7b134be", "6b7c12239c81d876"]  # of small_data, by version 1


def load(source: object, *options: object, cwd: Path) -> Result:
    sizes = SIZES[:2] if "all" in options and "--per-genre" in options else SIZES
    return run_main("data_loader.py", "--source", source, *sizes, *options, cwd=cwd)


def assert_nothing_written(folder: Path) -> None:
    assert not (folder / "data").exists() or names_in(folder / "data") == []
    assert temporary_files(folder) == []


def sha256_of_lines(lines: list[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


@dataclass
class Run:
    data: Path
    source: str
    stdout: str
    stderr: str
    requests: list[Request]
    max_concurrent: int


@pytest.fixture(scope="module")
def streamed(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Run:
    """All eight genres over HTTP, from files far longer than what is read; the server is gone."""
    folder, big = tmp_path_factory.mktemp("streamed"), tmp_path_factory.mktemp("big")
    for path in files.iterdir():
        (big / path.name).write_bytes(path.read_bytes() * 10)  # ten gzip members
    with FileServer(big, delay=0.05) as server:
        result = succeeded(load(server.url, cwd=folder))
        server.wait(active=0)
    shutil.rmtree(big)
    return Run(
        folder / "data", server.url, result.stdout, result.stderr, server.requests, server.max_concurrent
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Path:
    """A data folder of two genres from the local files; not to be changed."""
    folder = tmp_path_factory.mktemp("built")
    succeeded(load(files, *TWO, cwd=folder))
    return folder / "data"


@pytest.fixture
def data(tmp_path: Path, built: Path) -> Path:
    """A copy of ``built`` that a test may change, where ``load(..., cwd=tmp_path)`` finds it."""
    return Path(shutil.copytree(built, tmp_path / "data"))


# what is written


def test_streaming_eight_genres_gives_the_reference_sample(streamed: Run, files: Path) -> None:
    expected = reference_sample(files, ORDER, HEAD, PER_GENRE)
    for name, part in (("train", slice(TRAIN)), ("test", slice(TRAIN, None))):
        assert rows_of(streamed.data, name) == [
            {
                **{key: record[key] for key in ("review_id", "book_id", "user_id", "rating")},
                "genre": genre,
                "label": sorted(ORDER).index(genre),
                "text": record["review_text"],
            }
            for genre, records in expected.items()
            for record in records[part]
        ]
        schema = pq.read_schema(streamed.data / f"{name}.parquet")
        assert {field.name: str(field.type) for field in schema} == {
            "review_id": "string", "book_id": "string", "user_id": "string", "genre": "string",
            "label": "int64", "text": "string", "rating": "int64",
        }  # fmt: skip


def test_the_manifest_says_what_the_files_hold(streamed: Run) -> None:
    manifest = manifest_of(streamed.data)
    assert manifest["format"] == 1
    assert manifest["labels"] == sorted(ORDER)
    assert manifest["parameters"] == {
        "source": streamed.source, "genres": list(ORDER), "head": HEAD, "per_genre": PER_GENRE,
        "train_per_genre": TRAIN, "seed": 42, "drop_duplicates": False, "allow_fewer": False,
        "max_bad_lines": 0, "test_split": "",
    }  # fmt: skip
    assert manifest["removed_train_review_ids"] == []
    for name in ("train", "test"):
        content = (streamed.data / f"{name}.parquet").read_bytes()
        rows = rows_of(streamed.data, name)
        digest = hashlib.sha256(content).hexdigest()
        entry = {"rows": len(rows), "bytes": len(content), "sha256": digest}
        assert manifest["files"][f"{name}.parquet"] == entry
        ids = [row["review_id"] for row in rows if row["genre"] == "romance"]
        expected = {"reviews": len(ids), "review_ids_sha256": sha256_of_lines(ids)}
        assert manifest["splits"][name]["genres"]["romance"] == expected


def test_the_sample_run_gives_the_split_of_every_earlier_version(small_data: Path) -> None:
    splits = manifest_of(small_data)["splits"]
    assert [splits[name]["content_sha256"][:16] for name in ("train", "test")] == CONTENT


def test_stdout_is_the_table_of_counts_and_one_json_line(streamed: Run) -> None:
    *table, last = streamed.stdout.splitlines()
    assert table[0].split() == ["genre", "read", "train", "test"]
    assert [line.split() for line in table[1:9]] == [[genre, "500", "80", "20"] for genre in ORDER]
    assert table[9].startswith("empty texts ") and len(table) == 10
    splits = manifest_of(streamed.data)["splits"]
    assert json.loads(last) == {
        "data_dir": "data", "source": streamed.source, "genres": list(ORDER),
        "train_reviews": 640, "test_reviews": 160,
        "train_content_sha256": splits["train"]["content_sha256"],
        "test_content_sha256": splits["test"]["content_sha256"],
        "manifest_sha256": hashlib.sha256((streamed.data / "manifest.json").read_bytes()).hexdigest(),
    }  # fmt: skip
    assert "error" not in streamed.stderr


# how it reads


def test_all_genres_stream_at_once_and_each_stream_is_closed_soon_after_the_last_review_it_needs(
    streamed: Run, files: Path
) -> None:
    read = manifest_of(streamed.data)["read"]
    assert len(streamed.requests) == 8 and streamed.max_concurrent > 3
    for request in streamed.requests:
        name = request.path.rpartition("/")[2]
        genre = name.removeprefix("goodreads_reviews_").removesuffix(".json.gz")
        assert request.path == f"/byGenre/{name}"
        assert read[genre]["file"] == streamed.source + name
        assert read[genre]["reviews_read"] == HEAD
        packed, unpacker, lines, needed = (files / name).read_bytes(), zlib.decompressobj(wbits=31), 0, 0
        while lines < HEAD:
            lines += unpacker.decompress(packed[needed : needed + 512]).count(b"\n")
            needed += 512
        assert needed - 512 <= read[genre]["bytes_read"] <= needed + 65536
        assert request.closed_early
        # a chunk of the reader and the socket buffers; the file is 3.3 MB
        assert read[genre]["bytes_read"] <= request.sent <= needed + 65536 + 1_000_000 < request.total


@pytest.mark.parametrize("answer", [Answer(stall_at=1000, stall=30), Answer()], ids=["stalled", "streaming"])
def test_an_interrupt_ends_all_streams_at_once(tmp_path: Path, files: Path, answer: Answer) -> None:
    answers: dict[str, Answer | list[Answer]] = {gz(genre): answer for genre in ORDER}
    with FileServer(files, delay=0.05, answers=answers) as server:
        process = subprocess.Popen(
            command("data_loader.py", "--source", server.url, *SIZES, "--head", 3000),
            cwd=tmp_path,
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        server.wait(requests=8)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        assert time.monotonic() - started < 6
    assert process.returncode == 130
    assert "error: interrupted" in stderr and "Traceback" not in stderr
    assert_nothing_written(tmp_path)


# a second run


def stamps(data: Path) -> dict[str, tuple[int, int]]:
    paths = [data / name for name in SPLIT_FILES]
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in paths}


def test_a_second_run_uses_what_is_there_without_asking_the_server(streamed: Run) -> None:
    before = stamps(streamed.data)
    result = succeeded(load(streamed.source, cwd=streamed.data.parent))  # the server is gone
    assert "holds this split already" in result.stderr
    assert result.stdout == streamed.stdout
    assert stamps(streamed.data) == before


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("test.parquet", write(""), "test.parquet is not the file its manifest"),
        ("train.parquet", Path.unlink, "train.parquet is missing"),
        ("manifest.json", write('{"format": 1'), "data/manifest.json is damaged or"),
        ("manifest.json", write('{"format": 1, "files": 3}'), "data/manifest.json is no manifest"),
        ("manifest.json", Path.unlink, ""),
    ],
    ids=["empty", "gone", "half", "useless", "no manifest"],
)
def test_a_damaged_folder_is_rebuilt_to_the_same_bytes_saying_why(
    tmp_path: Path, files: Path, built: Path, data: Path, name: str, damage: Callable[[Path], Any], said: str
) -> None:
    damage(data / name)
    result = succeeded(load(files, *TWO, cwd=tmp_path))
    assert said in result.stderr
    assert result.stderr.count("rebuilding") == bool(said)
    assert "holds this split already" not in result.stderr
    assert split_bytes(data) == split_bytes(built)
    assert "holds this split already" in succeeded(load(files, *TWO, cwd=tmp_path)).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seed", 7), "seed was 42, is 7"),
        (("--genres", "poetry,children"), "genres was ['poetry', 'romance'], is ['poetry', 'children']"),
        (("--per-genre", 50, "--train-per-genre", 40), "per_genre was 100, is 50; train_per_genre was 80"),
    ],
)
def test_a_split_of_other_parameters_is_replaced_with_force_only(
    tmp_path: Path, files: Path, data: Path, options: tuple[object, ...], said: str
) -> None:
    before = stamps(data)
    result = load(files, *TWO, *options, cwd=tmp_path)
    assert_one_line_error(result, f"data holds a split made with other parameters: {said}", "--force")
    assert stamps(data) == before
    succeeded(load(files, *TWO, *options, "--force", cwd=tmp_path))
    assert "holds this split already" in succeeded(load(files, *TWO, *options, cwd=tmp_path)).stderr


@pytest.mark.parametrize("name", ["manifest.json", "train.parquet", "test.parquet"])
@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
def test_a_file_of_somebody_else_is_never_replaced(
    tmp_path: Path, files: Path, name: str, force: tuple[str, ...]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / name).write_text('{"name": "my web app"}')
    result = load(files, *TWO, *force, cwd=tmp_path)
    assert_one_line_error(result, f"data/{name} is in the way, and data_loader.py did not make it")
    assert (tmp_path / "data" / name).read_text() == '{"name": "my web app"}'
    assert names_in(tmp_path / "data") == [name]


def test_a_link_stays_a_link_and_odd_characters_are_fine(tmp_path: Path, files: Path, built: Path) -> None:
    odd = os.fsdecode("söme [*] 'dir' \udcff".encode("utf-8", "surrogateescape"))
    (tmp_path / "real").mkdir()
    (tmp_path / odd).symlink_to("real")
    for _ in range(2):
        result = succeeded(load(files, *TWO, "--output-dir", odd, "--force", cwd=tmp_path))
        assert json.loads(result.stdout.splitlines()[-1])["data_dir"] == odd
    assert (tmp_path / odd).is_symlink() and split_bytes(tmp_path / "real") == split_bytes(built)
    shutil.copytree(files, tmp_path / f"in {odd}")
    everything_else = ("--per-genre", "all", "--test-from", odd)
    for options in ((), everything_else):
        for said in ("", "holds this split already"):
            out = ("--output-dir", f"out {odd} {len(options)}", *options)
            assert said in succeeded(load(f"in {odd}", *TWO, *out, cwd=tmp_path)).stderr


def test_two_runs_at_once_make_one_split(tmp_path: Path, files: Path, built: Path) -> None:
    """The second waits for the first, and then finds the split there."""
    with FileServer(files, delay=0.05) as server:
        script = command("data_loader.py", "--source", server.url, *SIZES, *TWO)
        runs = [
            subprocess.Popen(
                script, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True
            )
            for _ in range(3)
        ]
        errors = [run.communicate(timeout=60)[1] for run in runs]
        assert [run.returncode for run in runs] == [0, 0, 0], errors
        assert len(server.requests) == 2
    assert sum("another run is writing to data; waiting" in stderr for stderr in errors) >= 1
    assert split_bytes(tmp_path / "data") == split_bytes(built)
    assert names_in(tmp_path / "data") == SPLIT_FILES


# duplicates, short files and whole files


def test_duplicates_are_counted_always_and_dropped_from_train_on_request(tmp_path: Path) -> None:
    genres = {genre: reviews(genre, 20) for genre in ("poetry", "romance")}
    for genre, records in genres.items():
        write_reviews(tmp_path / "plain", genre, records)
    drawn = reference_sample(tmp_path / "plain", genres, 20, 20)
    # what is drawn depends on the counts alone, so texts can be chosen by where their review will end up
    (p, r), cut = ([genres[g][int(d["review_id"][len(g) :])] for d in drawn[g]] for g in drawn), 15
    p[0]["review_text"] = p[cut]["review_text"]
    r[3]["review_text"] = p[cut + 1]["review_text"]  # across genres
    r[7]["review_id"] = r[cut + 4]["review_id"]
    p[1]["review_text"] = p[2]["review_text"]  # within train: stays
    p[5]["review_text"] = p[cut + 2]["review_text"] = ""  # empty: stays
    removed = [p[0]["review_id"], r[3]["review_id"], r[7]["review_id"]]
    for genre, records in genres.items():
        write_reviews(tmp_path / "doubled", genre, records)
    sizes = (*TWO, "--head", 20, "--per-genre", 20, "--train-per-genre", cut)

    def split(*options: object) -> tuple[str, dict[str, Any], list[str], bytes]:
        output = tmp_path / "-".join(("out", *map(str, options)))
        result = succeeded(load(tmp_path / "doubled", *sizes, "--output-dir", output, *options, cwd=tmp_path))
        return result.stdout, manifest_of(output), ids_of(output, "train"), split_bytes(output)[1]

    stdout, manifest, ids, test = split()
    assert ids == [d["review_id"] for d in (*p[:cut], *r[:cut])]
    assert manifest["removed_train_review_ids"] == []
    assert manifest["report"]["train_review_ids_also_in_test"] == removed
    assert "exact duplicate texts 6," in stdout
    stdout, manifest, kept, same_test = split("--drop-duplicates")
    assert kept == [i for place, i in enumerate(ids) if place not in (0, cut + 3, cut + 7)]
    assert same_test == test
    assert manifest["removed_train_review_ids"] == removed
    assert manifest["splits"]["train"]["genres"]["romance"]["reviews"] == cut - 2
    assert manifest["files"]["train.parquet"]["rows"] == 2 * cut - 3
    assert "train reviews also in test 3, removed 3" in stdout


def test_too_few_reviews_are_an_error_unless_allowed(tmp_path: Path, files: Path) -> None:
    shutil.copytree(files, tmp_path / "in")
    write_reviews(tmp_path / "in", "poetry", reviews("poetry", 30))
    result = load(tmp_path / "in", *TWO, cwd=tmp_path)
    assert_one_line_error(result, "poetry has 30 reviews, fewer than 100", "--allow-fewer")
    assert_nothing_written(tmp_path)
    succeeded(load(tmp_path / "in", *TWO, "--allow-fewer", cwd=tmp_path))
    poetry, romance = reference_sample(tmp_path / "in", ("poetry", "romance"), HEAD, PER_GENRE).values()
    assert ids_of(tmp_path / "data", "train") == [d["review_id"] for d in poetry[:24] + romance[:TRAIN]]
    assert ids_of(tmp_path / "data", "test") == [d["review_id"] for d in poetry[24:] + romance[TRAIN:]]
    assert manifest_of(tmp_path / "data")["read"]["poetry"]["reviews_read"] == 30


def test_real_reviews_of_two_genres_give_the_full_protocol(tmp_path: Path, real: Path) -> None:
    arguments = ("--source", real / "goodreads", "--genres", "children,comics_graphic")
    result = succeeded(run_main("data_loader.py", *arguments, cwd=tmp_path))
    assert [line.split() for line in result.stdout.splitlines()[1:3]] == [
        ["children", "2151", "800", "200"],
        ["comics_graphic", "2344", "800", "200"],
    ]
    expected = reference_sample(real / "goodreads", ("children", "comics_graphic"), 10_000, 1_000)
    for name, part, count in (("train", slice(800), 1600), ("test", slice(800, None), 400)):
        ids = ids_of(tmp_path / "data", name)
        assert ids == [record["review_id"] for records in expected.values() for record in records[part]]
        assert len(ids) == count


def test_whole_files_are_sampled_and_all_others_become_training_data(tmp_path: Path, files: Path) -> None:
    succeeded(load(files, *TWO, "--head", "all", cwd=tmp_path))
    assert manifest_of(tmp_path / "data")["read"]["poetry"]["reviews_read"] == 3000
    everything = ("--head", "all", "--per-genre", "all", "--output-dir", "everything", "--test-from")
    *table, last = succeeded(load(files, *TWO, *everything, "data", cwd=tmp_path)).stdout.splitlines()
    assert [line.split()[:2] for line in table[1:3]] == [["poetry", "3000"], ["romance", "3000"]]
    assert "held out by review id 40, held out by text" in table[3]
    test = manifest_of(tmp_path / "data")["splits"]["test"]["content_sha256"]
    assert json.loads(last)["test_content_sha256"] == test and json.loads(last)["train_reviews"] > 5_900
    missing = load(files, *TWO, *everything, "nothing", cwd=tmp_path)
    assert_one_line_error(missing, "is missing", "python data_loader.py --output-dir nothing")


def test_bad_lines_are_refused_or_left_out_and_counted(tmp_path: Path, files: Path) -> None:
    lines = [json.dumps(review) for review in reviews("poetry", 100)]
    whole = "\n".join(lines)
    lines[3], lines[70] = "oops", lines[70].replace('"No. 70 of poetry"', "null")
    for name, text in (("in", "\n".join(lines)), ("whole", whole)):
        write_reviews(tmp_path / name, "romance", reviews("romance", 100))
        (tmp_path / name / gz("poetry")).write_bytes(gzip.compress(text.encode()))
    options = (*TWO, "--head", 100)  # every line is sampled
    one = load("in", *options, "--max-bad-lines", 1, cwd=tmp_path)
    assert_one_line_error(one, "poetry", "bad line 2 of this file")
    result = succeeded(load("in", *options, "--max-bad-lines", 2, cwd=tmp_path))
    assert result.stdout.splitlines()[-2].endswith("bad lines left out 2")
    bad = manifest_of(tmp_path / "data")["read"]["poetry"]["bad_lines"]
    assert sorted("line 4 is not JSON" in line for line in bad) == [False, True]
    assert sum("line 71 has no review_text of type str" in line for line in bad) == 1
    succeeded(load("whole", *options, "--output-dir", "all", cwd=tmp_path))
    for name in ("train", "test"):  # the others stay where they are
        rows = [
            row for row in rows_of(tmp_path / "all", name) if row["review_id"] not in ("poetry3", "poetry70")
        ]
        assert rows_of(tmp_path / "data", name) == rows


# errors


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--genres", "poetry,cooking"), ["--genres poetry,cooking", "young_adult"]),
        (("--per-genre", 501), ["--per-genre 501 is more than --head 500"]),
        (("--train-per-genre", 100), ["--train-per-genre 100 leaves 100 no test reviews"]),
        (("--head", "ten"), ["--head", "ten", "--help"]),
        (("--seed", -1), ["--seed", "at least 0"]),
        (("--timeout", 0), ["--timeout", "at least 1"]),
        (("--test-from", "data"), ["--test-from and --per-genre all go together"]),
        (("--per-genre", "all", "--train-per-genre", 5), ["--per-genre all goes without --train-per-genre"]),
        (("--source", "nowhere"), ["nowhere/goodreads_reviews_", "No such file", "--source"]),
        (("--source", "ftp://127.0.0.1/x"), ["ftp://127.0.0.1/x", "--source"]),
        (("--source", "http://127.0.0.1:99999/"), ["127.0.0.1:99999", "--source"]),
        (("--output-dir", "a file"), ["cannot write a file"]),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    tmp_path: Path, files: Path, options: tuple[object, ...], fragments: list[str]
) -> None:
    (tmp_path / "a file").write_text("mine")
    result = load(files, *options, cwd=tmp_path)
    assert_one_line_error(result, "data_loader.py: error: ", *fragments)
    assert result.stdout == ""
    assert_nothing_written(tmp_path)
    assert (tmp_path / "a file").read_text() == "mine"


PAGE = b"<!doctype html><html><head><title>503\nDown for\n repair</title></head></html>"
BAD_LINE = gzip.compress(b"".join(json.dumps(r).encode() + b"\n" for r in reviews("p", 122)) + b"oops\n", 1)


@pytest.mark.parametrize(
    ("answer", "fragments"),
    [
        (Answer(404, b"gone"), ["HTTP 404 Not Found", "--source"]),
        (Answer(200, PAGE), ["Not a gzipped file"]),
        (Answer(truncate_at=20_000), ["cannot be read after line", "fetch it again"]),
        (Answer(cut_at=20_000, ranges=False), ["at byte 20,000, attempt 2", "run again"]),
        (Answer(200, BAD_LINE), ["line 123 is not JSON"]),
    ],
    ids=["404", "HTML", "truncated", "cut", "not JSON"],
)
def test_a_bad_file_on_the_server_is_one_line_that_names_it(
    tmp_path: Path, files: Path, answer: Answer, fragments: list[str]
) -> None:
    # --per-genre is --head so that every line is kept and looked at
    sizes = ("--head", 123, "--per-genre", 123) if answer.body == BAD_LINE else ()
    with FileServer(files, answers={gz("poetry"): answer}) as server:
        result = load(server.url, *TWO, *sizes, "--retries", 1, cwd=tmp_path)
    assert_one_line_error(result, "poetry", server.url + gz("poetry"), *fragments)
    assert_nothing_written(tmp_path)


def test_a_failed_rebuild_leaves_the_old_split_usable(tmp_path: Path, files: Path, data: Path) -> None:
    before = stamps(data)
    with FileServer(files, answers={gz("romance"): Answer(404, b"")}) as server:
        assert_one_line_error(load(server.url, *TWO, "--force", cwd=tmp_path), "HTTP 404")
    assert_one_line_error(load(files, *TWO, "--force", "--genres", "poetry,nothing", cwd=tmp_path))
    assert stamps(data) == before
    assert temporary_files(tmp_path) == []


# kills

# runs data_loader.py and kills its own process at a rename: argv is the number of the rename, whether it is
# to happen first, and then data_loader.py's arguments
KILL_AT_RENAME = """
import os, pathlib, runpy, signal, sys
number, happens, sys.argv[:] = int(sys.argv[1]), sys.argv[2] == "after", sys.argv[3:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
real, seen = os.rename, []
def rename(source, target):
    if pathlib.Path(target).parent.name == "data":  # not those within the temporary folder
        seen.append(target)
    if len(seen) < number or happens:
        real(source, target)
    if len(seen) == number:
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize("existing", [False, True], ids=["no data yet", "data of another seed"])
@pytest.mark.parametrize(
    ("rename", "when"), [(0.5, ""), (0.8, ""), (1, "before"), (2, "before"), (3, "after")]
)
def test_a_run_after_a_kill_gives_the_undisturbed_split(
    tmp_path: Path, files: Path, built: Path, rename: float, when: str, existing: bool
) -> None:
    """Killed at some moment, or at one of the renames, which are test, train, manifest."""
    if existing:
        succeeded(load(files, *TWO, "--seed", 1, cwd=tmp_path))
    arguments = command("data_loader.py", "--source", files, *SIZES, *TWO, "--force")
    if when:
        arguments = [sys.executable, "-c", KILL_AT_RENAME, str(rename), when, *arguments[1:]]
    process = subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if not when:
        time.sleep(rename * random.Random(7).uniform(0.8, 1))
        process.kill()
    _, stderr = process.communicate()
    assert process.returncode == -signal.SIGKILL or not when, stderr
    succeeded(load(files, *TWO, *(["--force"] if existing else []), cwd=tmp_path))
    assert split_bytes(tmp_path / "data") == split_bytes(built)
    assert names_in(tmp_path / "data") == SPLIT_FILES

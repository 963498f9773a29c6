"""data_loader.py as a process, against real files and a real HTTP server on loopback."""

import gzip
import hashlib
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.helpers import (
    assert_one_line_error,
    command,
    environment,
    run_script,
    succeeded,
    temporary_files,
)
from tests.loopback import Answer, FileServer, Request

SCRIPTS = ["data_loader.py", "train.py", "evaluate_model.py", "push_to_hub.py", "plot_results.py"]
HEAD, PER_GENRE, TRAIN = 500, 100, 80
SIZES = ("--head", HEAD, "--per-genre", PER_GENRE, "--train-per-genre", TRAIN)
TWO = ("--genres", "poetry,romance")
ORDER = (
    "poetry", "children", "comics_graphic", "fantasy_paranormal", "history_biography",
    "mystery_thriller_crime", "romance", "young_adult",
)  # fmt: skip


def gz(genre: str) -> str:
    return f"goodreads_reviews_{genre}.json.gz"


def reference_sample(
    folder: Path, genres: Collection[str], head: int, per_genre: int, seed: int = 42
) -> dict[str, list[dict[str, Any]]]:
    """The reference's loop, written again: one generator, its order of genres, ``sample`` on the records."""
    rng = random.Random(seed)
    samples = {}
    for genre in ORDER:
        if genre not in genres:
            continue
        records = []
        with gzip.open(folder / gz(genre), "rt", encoding="utf-8") as file:
            for line in file:
                records.append(json.loads(line))
                if len(records) == head:
                    break
        samples[genre] = rng.sample(records, min(per_genre, len(records)))
    return samples


def load(source: object, *options: object, cwd: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    return run_script("data_loader.py", "--source", source, *SIZES, *options, cwd=cwd, **kwargs)


def manifest_of(data: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((data / "manifest.json").read_text())
    return document


def rows_of(data: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(data / f"{name}.parquet").to_pylist()
    return rows


def split_bytes(data: Path) -> list[bytes]:
    return [(data / f"{name}.parquet").read_bytes() for name in ("train", "test")]


def assert_nothing_written(folder: Path) -> None:
    assert not (folder / "data").exists() or not any((folder / "data").iterdir())
    assert temporary_files(folder) == []


def sha256_of_lines(lines: list[str]) -> str:
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def write_reviews(folder: Path, genre: str, records: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (folder / gz(genre)).write_bytes(gzip.compress(text.encode(), 1))


def reviews(genre: str, count: int) -> list[dict[str, Any]]:
    return [
        {
            "review_id": f"{genre}{i}",
            "book_id": f"b{i}",
            "user_id": "u",
            "review_text": f"No. {i}",
            "rating": 3,
        }
        for i in range(count)
    ]


@dataclass
class Run:
    data: Path
    source: str
    stdout: str
    stderr: str
    requests: list[Request]
    max_concurrent: int


@pytest.fixture(scope="session")
def streamed(tmp_path_factory: pytest.TempPathFactory, files: Path) -> Run:
    """All eight genres over HTTP, from files far longer than what is read; the server is gone."""
    folder, big = tmp_path_factory.mktemp("streamed"), tmp_path_factory.mktemp("big")
    for path in files.iterdir():
        (big / path.name).write_bytes(path.read_bytes() * 10)  # ten gzip members
    with FileServer(big, delay=0.1) as server:
        result = succeeded(load(server.url, cwd=folder))
        server.wait(active=0)
    shutil.rmtree(big)
    return Run(
        folder / "data", server.url, result.stdout, result.stderr, server.requests, server.max_concurrent
    )


@pytest.fixture(scope="session")
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


def test_a_folder_gives_the_same_files_as_the_server(tmp_path: Path, streamed: Run, files: Path) -> None:
    succeeded(load(files, cwd=tmp_path))
    assert split_bytes(tmp_path / "data") == split_bytes(streamed.data)


def test_the_columns_have_the_documented_names_and_types(streamed: Run) -> None:
    for name, count in (("train", 8 * TRAIN), ("test", 8 * (PER_GENRE - TRAIN))):
        table = pq.read_table(streamed.data / f"{name}.parquet")
        assert {field.name: str(field.type) for field in table.schema} == {
            "review_id": "string", "book_id": "string", "user_id": "string", "genre": "string",
            "label": "int64", "text": "string", "rating": "int64",
        }  # fmt: skip
        assert table.num_rows == count
        assert all(column.null_count == 0 for column in table.columns)


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
        assert manifest["files"][f"{name}.parquet"] == {
            "rows": len(rows),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        ids = {genre: [row["review_id"] for row in rows if row["genre"] == genre] for genre in ORDER}
        assert manifest["splits"][name]["genres"] == {
            genre: {"reviews": len(values), "review_ids_sha256": sha256_of_lines(values)}
            for genre, values in ids.items()
        }
        lines = [
            f"{r['review_id']}\t{r['label']}\t{hashlib.sha256(r['text'].encode()).hexdigest()}" for r in rows
        ]
        assert manifest["splits"][name]["content_sha256"] == sha256_of_lines(lines)


def test_stdout_is_the_table_of_counts_and_nothing_else(streamed: Run) -> None:
    lines = streamed.stdout.splitlines()
    assert lines[0].split() == ["genre", "read", "train", "test"]
    assert [line.split() for line in lines[1:9]] == [[genre, "500", "80", "20"] for genre in ORDER]
    assert lines[9].startswith("empty ")
    assert len(lines) == 10
    assert "error" not in streamed.stderr


# how it reads


def test_each_stream_is_closed_soon_after_the_last_review_it_needs(streamed: Run, files: Path) -> None:
    read = manifest_of(streamed.data)["read"]
    assert len(streamed.requests) == 8
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


def test_all_genres_stream_at_the_same_time(streamed: Run) -> None:
    assert streamed.max_concurrent == 8


@pytest.mark.parametrize("fault", ["interrupted", "one genre fails"])
def test_a_failure_abandons_the_other_streams(tmp_path: Path, files: Path, fault: str) -> None:
    answers = {gz("young_adult"): Answer(404, b"")} if fault == "one genre fails" else {}
    with FileServer(files, delay=0.05, answers=answers) as server:
        process = subprocess.Popen(
            command("data_loader.py", "--source", server.url, *SIZES, "--head", 3000),
            cwd=tmp_path,
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        if not answers:
            server.wait(requests=8)
            process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
        server.wait(active=0)
    assert process.returncode == (2 if answers else 130)
    assert ("HTTP 404" if answers else "error: interrupted") in stderr
    assert "Traceback" not in stderr
    assert_nothing_written(tmp_path)
    assert [r.path for r in server.requests if 0 < r.total == r.sent] == []


# a second run


def stamps(data: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in data.iterdir()}


def test_a_second_run_uses_what_is_there_without_asking_the_server(streamed: Run) -> None:
    before = stamps(streamed.data)
    result = succeeded(load(streamed.source, cwd=streamed.data.parent))  # the server is gone
    assert "holds this split already" in result.stderr
    assert result.stdout == streamed.stdout
    assert stamps(streamed.data) == before


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: flip_a_byte(data / "train.parquet"), "train.parquet is not the file its manifest"),
        (lambda data: (data / "test.parquet").write_bytes(b""), "test.parquet is not the file its manifest"),
        (lambda data: (data / "train.parquet").unlink(), "train.parquet is missing"),
        *(
            (lambda data, text=text: (data / "manifest.json").write_text(text), f"of no use ({reason}")
            for text, reason in (
                ('{"format": 1', "data/manifest.json is damaged"),
                ("[]", "data/manifest.json is not a JSON object"),
                ('{"format": 1, "files": 3}', ""),
                ('{"format": 0}', "data/manifest.json is not of format 1"),
            )
        ),
        (lambda data: (data / "manifest.json").unlink(), ""),
    ],
    ids=["flipped byte", "empty", "gone", "half", "list", "useless", "other format", "no manifest"],
)
def test_a_damaged_folder_is_rebuilt_to_the_same_bytes_saying_why(
    tmp_path: Path, files: Path, built: Path, data: Path, damage: Any, said: str
) -> None:
    damage(data)
    result = succeeded(load(files, *TWO, cwd=tmp_path))
    assert said in result.stderr
    assert ("rebuilding" in result.stderr) == bool(said)
    assert "holds this split already" not in result.stderr
    assert split_bytes(data) == split_bytes(built)
    assert "holds this split already" in succeeded(load(files, *TWO, cwd=tmp_path)).stderr


def test_a_manifest_that_lacks_a_part_is_rebuilt(tmp_path: Path, files: Path, data: Path) -> None:
    manifest = manifest_of(data)
    del manifest["read"]
    (data / "manifest.json").write_text(json.dumps(manifest))
    assert "rebuilding" in succeeded(load(files, *TWO, cwd=tmp_path)).stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seed", 7), "seed was 42"),
        (("--head", 600), "head was 500"),
        (("--genres", "poetry,children"), "genres was ['poetry', 'romance']"),
        (("--drop-duplicates",), "drop_duplicates was False"),
        (("--per-genre", 50, "--train-per-genre", 40), "per_genre was 100; train_per_genre was 80"),
    ],
)
def test_other_parameters_rebuild_saying_which(
    tmp_path: Path, files: Path, data: Path, options: tuple[object, ...], said: str
) -> None:
    result = succeeded(load(files, *TWO, *options, cwd=tmp_path))
    assert f"made with other parameters: {said}" in result.stderr
    assert "holds this split already" in succeeded(load(files, *TWO, *options, cwd=tmp_path)).stderr


def test_force_writes_the_same_split_anew(tmp_path: Path, files: Path, built: Path, data: Path) -> None:
    before = stamps(data)
    result = succeeded(load(files, *TWO, "--force", cwd=tmp_path))
    assert "holds this split already" not in result.stderr
    assert all(stamps(data)[name] != stamp for name, stamp in before.items())
    assert split_bytes(data) == split_bytes(built)


# duplicates and short files


def test_duplicates_are_counted_always_and_dropped_from_train_on_request(tmp_path: Path) -> None:
    genres = {genre: reviews(genre, 20) for genre in ("poetry", "romance")}
    for genre, records in genres.items():
        for record in records:
            record["review_text"] += f" of {genre}"
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
        train, test = split_bytes(output)
        assert train
        ids = [row["review_id"] for row in rows_of(output, "train")]
        return result.stdout, manifest_of(output), ids, test

    stdout, manifest, ids, test = split()
    assert ids == [d["review_id"] for d in (*p[:cut], *r[:cut])]
    assert manifest["removed_train_review_ids"] == []
    assert manifest["report"]["train_review_ids_also_in_test"] == removed
    assert "exact duplicates 6, train reviews also in test 3 (0 removed)" in stdout
    stdout, manifest, kept, same_test = split("--drop-duplicates")
    assert kept == [i for place, i in enumerate(ids) if place not in (0, cut + 3, cut + 7)]
    assert same_test == test
    assert manifest["removed_train_review_ids"] == removed
    assert manifest["splits"]["train"]["genres"]["romance"]["reviews"] == cut - 2
    assert manifest["files"]["train.parquet"]["rows"] == 2 * cut - 3
    assert "train reviews also in test 3 (3 removed)" in stdout


def test_too_few_reviews_are_an_error_unless_allowed(tmp_path: Path, files: Path) -> None:
    shutil.copytree(files, tmp_path / "in")
    write_reviews(tmp_path / "in", "poetry", reviews("poetry", 30))
    result = load(tmp_path / "in", *TWO, cwd=tmp_path)
    assert_one_line_error(result, "poetry has 30 reviews, fewer than --per-genre 100", "--allow-fewer")
    assert_nothing_written(tmp_path)
    result = succeeded(load(tmp_path / "in", *TWO, "--allow-fewer", cwd=tmp_path))
    assert "poetry: the file ends before --head 500; sampling from 30" in result.stderr
    expected = reference_sample(tmp_path / "in", ("poetry", "romance"), HEAD, PER_GENRE)
    for name, parts in (
        ("train", (slice(24), slice(TRAIN))),
        ("test", (slice(24, None), slice(TRAIN, None))),
    ):
        ids = [row["review_id"] for row in rows_of(tmp_path / "data", name)]
        assert ids == [
            d["review_id"] for g, part in zip(expected, parts, strict=True) for d in expected[g][part]
        ]
    assert manifest_of(tmp_path / "data")["read"]["poetry"]["reviews_read"] == 30


def test_one_review_is_too_few_to_split_even_when_fewer_are_allowed(tmp_path: Path) -> None:
    for genre, count in (("poetry", 9), ("romance", 1)):
        write_reviews(tmp_path / "in", genre, reviews(genre, count))
    assert_one_line_error(load("in", *TWO, "--allow-fewer", cwd=tmp_path), "romance has 1 reviews: too few")


def test_a_short_genre_is_split_in_the_exact_proportion(tmp_path: Path) -> None:
    for genre in ("poetry", "romance"):
        write_reviews(tmp_path / "in", genre, reviews(genre, 90))
    succeeded(load("in", *TWO, "--train-per-genre", 70, "--allow-fewer", cwd=tmp_path))
    assert [len(rows_of(tmp_path / "data", name)) for name in ("train", "test")] == [126, 54]


def test_real_reviews_of_two_genres_give_the_full_protocol(tmp_path: Path, shared: Path) -> None:
    arguments = ("--source", shared / "goodreads", "--genres", "children,comics_graphic")
    result = succeeded(run_script("data_loader.py", *arguments, cwd=tmp_path))
    assert [line.split() for line in result.stdout.splitlines()[1:3]] == [
        ["children", "2151", "800", "200"],
        ["comics_graphic", "2344", "800", "200"],
    ]
    expected = reference_sample(shared / "goodreads", ("children", "comics_graphic"), 10_000, 1_000)
    for name, part, count in (("train", slice(800), 1600), ("test", slice(800, None), 400)):
        ids = [row["review_id"] for row in rows_of(tmp_path / "data", name)]
        assert ids == [record["review_id"] for records in expected.values() for record in records[part]]
        assert len(ids) == count


# errors


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--genres", "poetry,cooking"), ["unknown genre 'cooking'", "young_adult"]),
        (("--genres", "poetry"), ["at least two"]),
        (("--per-genre", 501), ["--per-genre 501 is more than --head 500"]),
        (("--train-per-genre", 100), ["--train-per-genre 100 leaves no test reviews of 100"]),
        (("--head", "ten"), ["--head", "ten", "--help"]),
        (("--per-genre", 0), ["--per-genre", "0 is not a positive integer"]),
        (("--seed", "1.5"), ["--seed", "1.5"]),
        (("--colour", "red"), ["--colour"]),
        (("--source", "nowhere"), ["nowhere/goodreads_reviews_", "No such file", "--source"]),
        (("--source", "ftp://127.0.0.1/x"), ["ftp://127.0.0.1/x", "--source"]),
        (("--source", "http://127.0.0.1:99999/"), ["127.0.0.1:99999", "--source"]),
    ],
)
def test_bad_options_are_one_line_and_exit_code_2(
    tmp_path: Path, files: Path, options: tuple[object, ...], fragments: list[str]
) -> None:
    result = load(files, *options, cwd=tmp_path)
    assert_one_line_error(result, "data_loader.py: error: ", *fragments)
    assert result.stdout == ""
    assert_nothing_written(tmp_path)


PAGE = b"<!doctype html><html><head><title>503\nDown for\n repair</title></head></html>"
BAD_LINE = gzip.compress(b"".join(json.dumps(r).encode() + b"\n" for r in reviews("p", 122)) + b"oops\n", 1)


@pytest.mark.parametrize(
    ("answer", "fragments"),
    [
        (Answer(404, b"gone"), ["HTTP 404 Not Found", "--source"]),
        (Answer(500, b"oh"), ["HTTP 500 Internal Server Error"]),
        (Answer(200, PAGE, "text/html"), ["not a gzip file", "HTML page titled '503\\nDown for\\n repair'"]),
        (Answer(truncate_at=20_000), ["is truncated", "fetch it again"]),
        (Answer(cut_at=20_000, ranges=False), ["at byte 20,000, 5 times", "run again"]),
        (Answer(200, b""), ["is empty"]),
        (Answer(200, gzip.compress(b"")), ["poetry has 0 reviews"]),
        (Answer(200, BAD_LINE), ["line 123 is not JSON"]),
    ],
    ids=["404", "500", "HTML", "truncated", "cut", "empty", "nothing inside", "not JSON"],
)
def test_a_bad_file_on_the_server_is_one_line_that_names_it(
    tmp_path: Path, files: Path, answer: Answer, fragments: list[str]
) -> None:
    # --per-genre is --head so that every line is kept and looked at
    sizes = ("--head", 123, "--per-genre", 123) if answer.body == BAD_LINE else ()
    with FileServer(files, answers={gz("poetry"): answer}) as server:
        result = load(server.url, *TWO, *sizes, cwd=tmp_path)
    assert_one_line_error(result, "poetry", *fragments)
    if "has 0 reviews" not in fragments[0]:
        assert_one_line_error(result, server.url + gz("poetry"))
    assert_nothing_written(tmp_path)


def test_patience_with_the_network_can_be_chosen(tmp_path: Path, files: Path) -> None:
    answers: dict[str, Answer | list[Answer]] = {gz("poetry"): [Answer(stall_at=20_000, stall=4)]}
    with FileServer(files, answers=answers) as server:
        result = load(server.url, *TWO, "--timeout", 1, "--retries", 0, cwd=tmp_path)
        assert_one_line_error(result, "at byte 20,000, once; check the network")
        answers[gz("poetry")] = [Answer(stall_at=20_000, stall=4)]
        succeeded(load(server.url, *TWO, "--timeout", 1, cwd=tmp_path))


def test_a_server_that_is_down_is_one_line_that_says_so(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        result = load(f"http://127.0.0.1:{free.getsockname()[1]}/", *TWO, cwd=tmp_path)
    assert_one_line_error(result, "Connection refused", "check the network and --source")
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (b"", "is empty"),
        (b"plain", "not a gzip file: it begins with b'plain'"),
        (gzip.compress(b"{}\n" * 600), "has no review_id of type str"),
        (
            gzip.compress(b"".join(json.dumps(r).encode() + b"\n" for r in reviews("r", 400)))[:-9],
            "is truncated",
        ),
    ],
    ids=["empty", "plain", "no fields", "truncated"],
)
def test_a_bad_local_file_is_one_line_that_names_it(
    tmp_path: Path, files: Path, content: bytes, fragment: str
) -> None:
    shutil.copytree(files, tmp_path / "in")
    (tmp_path / "in" / gz("romance")).write_bytes(content)
    assert_one_line_error(load("in", *TWO, cwd=tmp_path), gz("romance"), fragment)
    assert_nothing_written(tmp_path)


def test_an_output_folder_that_is_a_file_is_one_line_that_names_it(tmp_path: Path, files: Path) -> None:
    (tmp_path / "data").write_text("mine")
    assert_one_line_error(load(files, *TWO, cwd=tmp_path), "cannot write", "data")
    assert (tmp_path / "data").read_text() == "mine"


def test_a_failed_rebuild_leaves_the_old_split_usable(tmp_path: Path, files: Path, data: Path) -> None:
    before = stamps(data)
    with FileServer(files, answers={gz("romance"): Answer(cut_at=20_000, ranges=False)}) as server:
        assert_one_line_error(load(server.url, *TWO, "--force", cwd=tmp_path), "at byte 20,000, 5 times")
    assert_one_line_error(load(files, *TWO, "--force", "--genres", "poetry,nothing", cwd=tmp_path))
    assert stamps(data) == before
    assert "holds this split already" in succeeded(load(files, *TWO, cwd=tmp_path)).stderr


# kills

# runs data_loader.py and kills its own process at a rename: argv is the number of the rename, whether it is
# to happen first, and then data_loader.py's arguments
KILL_AT_RENAME = """
import os, pathlib, runpy, signal, sys
number, happens, sys.argv[:] = int(sys.argv[1]), sys.argv[2] == "after", sys.argv[3:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
real, seen = pathlib.Path.replace, []
def replace(self, target):
    seen.append(target)
    if len(seen) < number or happens:
        real(self, target)
    if len(seen) == number:
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = replace
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def assert_recovers(tmp_path: Path, files: Path, built: Path) -> None:
    """A run after the kill ends in the split of an undisturbed run, with nothing left over."""
    succeeded(load(files, *TWO, cwd=tmp_path))
    assert split_bytes(tmp_path / "data") == split_bytes(built)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == [
        "manifest.json", "test.parquet", "train.parquet",
    ]  # fmt: skip


@pytest.mark.parametrize("existing", [False, True], ids=["no data yet", "data of another seed"])
def test_a_run_after_kills_at_random_moments_gives_the_undisturbed_split(
    tmp_path: Path, files: Path, built: Path, existing: bool
) -> None:
    started = time.monotonic()
    succeeded(load(files, *TWO, "--seed", 1, cwd=tmp_path))
    seconds = time.monotonic() - started
    other = (tmp_path / "data").rename(tmp_path / "other")
    rng, killed = random.Random(7), 0
    for _ in range(3):
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        if existing:
            shutil.copytree(other, tmp_path / "data")
        process = subprocess.Popen(
            command("data_loader.py", "--source", files, *SIZES, *TWO, "--seed", 2, "--force"),
            cwd=tmp_path,
            env=environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(seconds * rng.uniform(0.4, 1))  # the beginning is imports
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        assert_recovers(tmp_path, files, built)
    assert killed


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("rename", [1, 2, 3])
def test_a_run_after_a_kill_at_a_rename_gives_the_undisturbed_split(
    tmp_path: Path, files: Path, built: Path, rename: int, when: str
) -> None:
    """The three renames are train, test, manifest; before the second, say, train is new and all else old."""
    succeeded(load(files, *TWO, "--seed", 1, cwd=tmp_path))
    arguments = command("data_loader.py", "--source", files, *SIZES, *TWO, "--seed", 2)[1:]
    killed = subprocess.run(
        [sys.executable, "-c", KILL_AT_RENAME, str(rename), when, *arguments],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(temporary_files(tmp_path)) == (when == "before")
    assert_recovers(tmp_path, files, built)


def test_a_run_that_reuses_the_split_takes_a_killed_runs_temporary_file_away(
    tmp_path: Path, files: Path, data: Path
) -> None:
    (data / ".train.parquet.tmp").touch()
    assert "holds this split already" in succeeded(load(files, *TWO, cwd=tmp_path)).stderr
    assert temporary_files(data) == []


def test_temporary_files_of_others_are_left_alone(tmp_path: Path, files: Path) -> None:
    (tmp_path / ".model.tmp").mkdir()  # train.py's, where it saves beside the data
    (tmp_path / ".mine.tmp").touch()
    succeeded(load(files, *TWO, "--output-dir", ".", cwd=tmp_path))
    assert sorted(path.name for path in temporary_files(tmp_path)) == [".mine.tmp", ".model.tmp"]


# resources


def test_the_full_protocol_takes_less_than_300_megabytes(tmp_path: Path) -> None:
    code = (
        "import resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, *command("data_loader.py", "--source", "sample")],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert 20_000 < int(result.stdout) < 300_000  # KiB
    assert {name: len(rows_of(tmp_path / "data", name)) for name in ("train", "test")} == {
        "train": 6400,
        "test": 1600,
    }


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_within_two_seconds(tmp_path: Path, script: str) -> None:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        result = succeeded(run_script(script, "--help", cwd=tmp_path))
        seconds.append(time.monotonic() - started)
        assert result.stdout.startswith(f"usage: {script}")
    assert median(seconds) < 2
    assert list(tmp_path.iterdir()) == []

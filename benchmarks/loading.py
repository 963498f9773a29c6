"""How fast reviews are read, against the reference's loop and against igzip alone.

    python -m benchmarks.loading                # 5 minutes; needs nginx (apt-get install nginx-light)
    python -m benchmarks.loading --repeats 9    # more runs, steadier medians

Eight files of generated reviews, as long and as compressible as the real ones, are served by nginx on
loopback. Every repeat runs all ways one after another; medians and medians of paired ratios are reported.
The last stdout line is one JSON document.
"""

import gzip
import json
import multiprocessing
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from threading import Event
from typing import Any

import numpy as np
import orjson
import requests
from isal import igzip, isal_zlib

from benchmarks.memory import peak_bytes
from data_loader import load
from goodreads.common.cli import Parser, positive_int, run
from goodreads.common.errors import InputError
from goodreads.common.progress import Progress, log
from goodreads.data.full_corpus import HeldOut, Shards
from goodreads.data.genres import GENRES, file_name, parse_genres
from goodreads.data.protocol import Parameters, sample_genres
from goodreads.data.reading import BadLines
from goodreads.data.resumable_http import Download, Limits
from goodreads.data.review_files import Source, Stream
from goodreads.data.review_parser import parse_review
from goodreads.data.sample_reviews import review
from goodreads.data.sampling import draw_indices

REVIEWS = 60_000  # per generated file; a sixth of them is read, a sixtieth sampled
COPIES = 34  # of a generated file in the one that is read whole
LATENCY, RATE = 0.02, 4e6  # of the shaped line: seconds of a round trip, bytes per second and connection
CHUNK = 1 << 16


# generated files


def write_genre(path: Path, genre: str, seed: int, reviews: int) -> None:
    """``reviews`` lines of about 1,000 bytes in the UCSD format, which gzip makes about 320 of."""
    rng = np.random.default_rng(seed)
    letters = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", dtype="S1").astype("U1")
    weights = 1 / np.arange(1, 27) ** 0.7
    words = np.array(
        ["".join(rng.choice(letters, n, p=weights / weights.sum())) for n in rng.integers(2, 11, 30_000)]
    )
    frequency = 1 / np.arange(3, 30_003) ** 1.15  # Zipf's law
    frequency /= frequency.sum()
    fields = review(genre, 0)
    lengths = np.clip(rng.lognormal(4.2, 1.0, reviews), 1, 3_000).astype(int)
    text = words[rng.choice(30_000, lengths.sum(), p=frequency)]
    with gzip.open(path, "wb", 6) as file:
        for number, (end, length) in enumerate(zip(lengths.cumsum(), lengths, strict=True)):
            fields["review_id"], fields["user_id"] = (rng.bytes(16).hex() for _ in range(2))
            fields["book_id"] = str(rng.integers(1, 30_000_000))
            fields["review_text"] = " ".join(text[end - length : end])
            fields["n_votes"] = number % 7
            file.write(json.dumps(fields).encode() + b"\n")


def make_files(folder: Path, reviews: int) -> None:
    """The eight files, unless the folder has them."""
    missing = [g for g in GENRES if not (folder / file_name(g)).exists()]
    progress = Progress("generated files", len(missing), "files")
    folder.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool() as pool:
        jobs = [
            pool.apply_async(write_genre, (folder / f"{file_name(g)}.new", g, i, reviews))
            for i, g in enumerate(missing)
        ]
        for genre, job in zip(missing, jobs, strict=True):
            job.get()
            (folder / f"{file_name(genre)}.new").rename(folder / file_name(genre))
            progress.update(1)


# servers


@contextmanager
def nginx(folder: Path, scratch: Path) -> Iterator[int]:
    """The port of an nginx that serves the folder."""
    if not (program := shutil.which("nginx")):
        raise InputError("nginx is not installed; apt-get install nginx-light")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (scratch / "nginx.conf").write_text(
        f"daemon off; worker_processes auto; pid {scratch}/pid; error_log {scratch}/error.log;\n"
        "user root; events {}\n"
        "http { access_log off; sendfile on; types { application/gzip gz; }\n"
        + "".join(
            f"{kind}_temp_path {scratch}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        + f"server {{ listen 127.0.0.1:{port}; root {folder}; }} }}\n"
    )
    process = subprocess.Popen([program, "-c", scratch / "nginx.conf", "-e", scratch / "error.log"])
    try:
        wait_for(port)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def shaped(port: int) -> Iterator[int]:
    """The port of a proxy to ``port`` with ``LATENCY`` and ``RATE``."""
    command = [
        sys.executable,
        "-m",
        "tests.shaping_proxy",
        "--target",
        port,
        "--latency",
        LATENCY,
        "--rate",
        RATE,
    ]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int) -> None:
    """Until somebody listens."""
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise InputError(f"nothing listens on port {port}")


# the ways to read


def reference(base: str, head: int) -> dict[str, list[Any]]:
    """The reference's loop: one genre after another, every line parsed, then sampled."""
    rng, samples = random.Random(42), {}
    for genre in parse_genres(",".join(GENRES)):
        records = []
        with (
            requests.get(base + file_name(genre), stream=True, timeout=60) as response,
            gzip.open(response.raw, "rt", encoding="utf-8") as file,
        ):
            for line in file:
                records.append(json.loads(line))
                if len(records) == head:
                    break
        samples[genre] = rng.sample(records, head // 10)
    return samples


def ours(base: str, head: int) -> dict[str, list[Any]]:
    """data_loader.py's way."""
    read = sample_genres(
        Parameters(base, head=head, per_genre=head // 10, train_per_genre=head // 20), Source(base)
    )
    return {genre: sample.reviews for genre, sample in read.items()}


def request(port: int, genre: str) -> socket.socket:
    """A connection on which a genre's file has been asked for, without any library."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(f"GET /{file_name(genre)} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return connection


def bare(port: int, head: int) -> dict[str, list[Any]]:
    """The least that Python can do, a thread per core: sockets, igzip, newlines, the sampled lines' JSON.

    No HTTP library, no check, no retry, no progress: what any reader of whole lines takes at least.
    """
    drawn = draw_indices(dict.fromkeys(parse_genres(",".join(GENRES)), head), head // 10, 42)

    def read(genre: str) -> list[Any]:
        lines, left = {}, iter([*sorted(drawn[genre]), head])
        count, wanted, rest = 0, next(left), b""
        with request(port, genre) as connection:
            connection.recv(connection.recv(4096, socket.MSG_PEEK).index(b"\r\n\r\n") + 4)
            text = igzip.IGzipFile(fileobj=connection.makefile("rb", buffering=0), mode="rb")
            while count < head:
                block, start = rest + text.read1(2 * CHUNK), 0
                while count < head and (end := block.find(b"\n", start)) >= 0:
                    if count == wanted:
                        lines[count], wanted = block[start:end], next(left)
                    count, start = count + 1, end + 1
                rest = block[start:]
        return [orjson.loads(lines[index]) for index in drawn[genre]]

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(drawn, pool.map(read, drawn)))


def needed_bytes(path: Path, head: int) -> list[bytes]:
    """The compressed bytes that hold the first ``head`` lines, in chunks."""
    unpacker, lines, chunks = zlib.decompressobj(wbits=31), 0, []
    with path.open("rb") as file:
        while lines < head:
            chunks.append(file.read(CHUNK))
            lines += unpacker.decompress(chunks[-1]).count(b"\n")
    return chunks


def igzip_alone(files: list[list[bytes]]) -> None:
    """Decompress what is in memory, on all cores."""

    def unpack(chunks: list[bytes]) -> None:
        unpacker = isal_zlib.decompressobj(wbits=31)
        for chunk in chunks:
            unpacker.decompress(chunk)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(unpack, files))


def paired(ways: dict[str, Callable[[], Any]], repeats: int, progress: Progress) -> dict[str, list[float]]:
    """Seconds of each way, in turns; the first turn warms up and is not counted."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(repeats + 1):
        for way, work in ways.items():
            started = time.perf_counter()
            work()
            if turn:
                seconds[way].append(time.perf_counter() - started)
        progress.update(1)
    return seconds


def ratio(seconds: dict[str, list[float]], way: str, to: str) -> float:
    """Median of ``way``'s time in units of ``to``'s in the same turn."""
    return median(a / b for a, b in zip(seconds[way], seconds[to], strict=True))


# whole files


def in_own_process(work: Callable[..., int], *arguments: Any) -> dict[str, float]:
    """Run ``work``, which returns the reviews it read; its time and memory."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=_measured, args=(queue, work, *arguments))
    process.start()
    process.join()
    if process.exitcode:
        raise InputError(f"{work.__name__} failed with exit status {process.exitcode}")
    figures: dict[str, float] = queue.get()
    return figures


def _measured(queue: Any, work: Callable[..., int], *arguments: Any) -> None:
    log.setLevel("WARNING")
    started, before = time.perf_counter(), time.process_time()
    reviews = work(*arguments)
    seconds, cpu = time.perf_counter() - started, time.process_time() - before
    queue.put({"reviews": reviews, "wall_s": seconds, "cpu_s": cpu, "peak_mb": peak_bytes() / 1e6})


def head_all(folder: Path) -> int:
    """Sample a whole genre."""
    parameters = Parameters(str(folder), ("children",), head=None, per_genre=100, train_per_genre=50)
    return sample_genres(parameters, Source(str(folder)))["children"].lines


def per_genre_all(folder: Path, out: Path) -> int:
    """Write all of a genre as shards."""
    shards = Shards(out, "children", 0, {})
    stream = Stream(Source(str(folder)), "children", Event())
    shards.fill(stream, None, HeldOut.of([], []), BadLines(), Progress("children", None, "reviews"))
    return shards.state.lines


def eight_genres_all(folder: Path, out: Path, head: int) -> int:
    """Sample eight genres, then write all of them but the test split as shards."""
    data = out / "data"
    drawn = Parameters(str(folder), head=head, per_genre=head // 10, train_per_genre=head // 20)
    made = load(drawn, data)
    content = made["splits"]["test"]["content_sha256"]
    everything = Parameters(str(folder), head=None, per_genre=None, train_per_genre=None, test_split=content)
    made = load(everything, out / "everything", test_from=data)
    return sum(entry["reviews_read"] for entry in made["read"].values())


def read_whole(small: Path, scratch: Path, head: int) -> dict[str, dict[str, float]]:
    """Figures of reading whole files.

    The large file holds a generated one over and over, as gzip members.
    """
    content = (small / file_name("children")).read_bytes()
    big = scratch / "whole"
    big.mkdir()
    with (big / file_name("children")).open("wb") as file:
        for _ in range(COPIES):
            file.write(content)
    text = len(gzip.decompress(content))
    figures = {}
    for work, size, *arguments in (
        (head_all, COPIES * text, big),
        (per_genre_all, COPIES * text, big, scratch / "genre"),
        (eight_genres_all, len(GENRES) * text, small, scratch / "eight", head),
    ):
        found = in_own_process(work, *arguments)
        found |= {"text_mb": size / 1e6, "text_mb_per_cpu_s": size / 1e6 / found["cpu_s"]}
        figures[work.__name__] = found
    return figures


# parsers and decompressors


def parts(folder: Path, port: int, head: int, repeats: int) -> dict[str, float]:
    """Seconds per ``head`` reviews: what could unpack and parse them, and what else there is to do."""
    name = file_name("children")
    chunks = needed_bytes(folder / name, head)
    unpacker = zlib.decompressobj(wbits=31)
    text = b"".join(unpacker.decompress(chunk) for chunk in chunks)
    lines = text.split(b"\n")[:head]
    size = sum(map(len, chunks))

    def unpack(module: Any) -> None:
        unpacker = module.decompressobj(wbits=31)
        for chunk in chunks:
            unpacker.decompress(chunk)

    def find_newlines() -> None:
        start = 0
        for _ in range(head):
            start = text.find(b"\n", start) + 1

    def receive() -> None:
        with request(port, "children") as connection:
            buffer, received = bytearray(CHUNK), 0
            while received < size:
                received += connection.recv_into(buffer)

    def download() -> None:
        with closing(Download(f"http://127.0.0.1:{port}/{name}", Event(), Limits()).chunks()) as body:
            received = 0
            while received < size:
                received += len(next(body))

    ways = {
        "zlib": lambda: unpack(zlib),
        "igzip": lambda: unpack(isal_zlib),
        "json": lambda: [json.loads(line) for line in lines],
        "orjson": lambda: [orjson.loads(line) for line in lines],
        "newlines": find_newlines,
        "a tenth parsed and checked": lambda: [parse_review(line, name, 0) for line in lines[::10]],
        "received, bare socket": receive,
        "received, our way": download,
    }
    seconds = paired(ways, repeats, Progress("parts", repeats + 1, "turns"))
    return {way: median(values) for way, values in seconds.items()}


def measure(folder: Path, scratch: Path, reviews: int, repeats: int) -> dict[str, Any]:
    """All figures."""
    head = reviews // 6
    chunks = [needed_bytes(folder / file_name(genre), head) for genre in GENRES]
    figures: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "repeats": repeats, "reviews": reviews}
    figures["compressed_bytes_per_review"] = sum(len(c) for file in chunks for c in file) / head / len(GENRES)
    with ExitStack() as stack:
        port = stack.enter_context(nginx(folder, scratch))
        for line, at in (("loopback", port), ("shaped", stack.enter_context(shaped(port)))):
            base = f"http://127.0.0.1:{at}/"
            ways: dict[str, Callable[[], Any]] = {
                "reference": partial(reference, base, head),
                "ours": partial(ours, base, head),
                "bare": partial(bare, at, head),
                "igzip alone": partial(igzip_alone, chunks),
            }
            found = [
                [[record["review_id"] for record in rows] for rows in ways[way]().values()]
                for way in ("reference", "ours", "bare")
            ]
            if not found[0] == found[1] == found[2]:
                raise InputError("the ways draw different samples")
            seconds = paired(ways, repeats, Progress(line, repeats + 1, "turns"))
            figures[line] = {
                "seconds": {way: median(values) for way, values in seconds.items()},
                "reference_to_ours": ratio(seconds, "reference", "ours"),
                "ours_to_igzip": ratio(seconds, "ours", "igzip alone"),
                "bare_to_igzip": ratio(seconds, "bare", "igzip alone"),
            }
        figures["parts"] = parts(folder, port, head, repeats)
    return figures | read_whole(folder, scratch, head)


def table(figures: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"8 x {figures['reviews'] // 6:,} of {figures['reviews']:,} reviews, {figures['cores']} cores, "
        f"medians of {figures['repeats']}"
    ]
    for line, limit in (("loopback", 3), ("shaped", 5)):
        entry = figures[line]
        seconds = ", ".join(f"{way} {value:.3f} s" for way, value in entry["seconds"].items())
        lines.append(f"{line:<10}{seconds}; {entry['reference_to_ours']:.1f}x the reference (bar {limit}x)")
    entry = figures["loopback"]
    lines.append(
        f"          on loopback {entry['ours_to_igzip']:.2f}x igzip alone (bar 1.5x); "
        f"the bare way {entry['bare_to_igzip']:.2f}x"
    )
    for key, bar in (("head_all", " (bar 150)"), ("per_genre_all", ""), ("eight_genres_all", "")):
        f = figures[key]
        lines.append(
            f"{key}: {f['reviews']:,} reviews, {f['text_mb']:,.0f} MB of text in {f['wall_s']:.1f} s, "
            f"{f['text_mb_per_cpu_s']:.0f} MB per core second{bar}, peak {f['peak_mb']:.0f} MB (bar 400)"
        )
    lines += [
        f"{way:<28}{value * 1e3:6.1f} ms per {figures['reviews'] // 6:,} reviews"
        for way, value in figures["parts"].items()
    ]
    return "\n".join(lines)


def main() -> None:
    """Make the files, measure, print."""
    parser = Parser(__doc__, prog="benchmarks.loading")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "goodreads-benchmark",
                        help="keeps the generated files (200 MB)")  # fmt: skip
    parser.add_argument("--repeats", type=positive_int, default=5, help="counted turns")
    parser.add_argument("--reviews", type=positive_int, default=REVIEWS, help="per genre")
    options = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"
    make_files(options.folder / str(options.reviews), options.reviews)
    log.setLevel("WARNING")
    with tempfile.TemporaryDirectory() as scratch:
        figures = measure(
            (options.folder / str(options.reviews)).resolve(), Path(scratch), options.reviews, options.repeats
        )
    print(table(figures))
    print(json.dumps(figures))


if __name__ == "__main__":
    run(main, "benchmarks.loading")

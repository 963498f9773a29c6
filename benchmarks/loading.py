"""How fast reviews are read, against the reference's loop.

    python -m benchmarks.loading                # a minute
    python -m benchmarks.loading --repeats 9    # more runs, steadier medians

Eight generated files, as long and as compressible as the real ones' beginnings, are served on this machine:
directly, and through a proxy with the latency and the bandwidth of a distant server. Both ways run in turns.
The last stdout line is one JSON document.
"""

import gzip
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import requests

from goodreads.common.cli import Parser, positive_int, run
from goodreads.common.progress import Progress, log
from goodreads.data.genres import SAMPLING_ORDER, file_name
from goodreads.data.resumable_http import Limits
from goodreads.data.sample_reviews import review
from goodreads.data.sampling import Parameters, sample_genres

LATENCY, RATE = 0.02, 4e6  # of the slow line: seconds of a round trip, bytes per second and connection


def write_genre(path: Path, genre: str, reviews: int) -> None:
    """``reviews`` lines of about 1,000 bytes in the UCSD format, which gzip makes about 350 of."""
    rng = np.random.default_rng(SAMPLING_ORDER.index(genre))
    letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
    words = np.array(["".join(rng.choice(letters[:20], n)) for n in rng.integers(2, 11, 30_000)])
    frequency = 1 / np.arange(3, 30_003) ** 1.15  # Zipf's law
    lengths = np.clip(rng.lognormal(4.2, 1.0, reviews), 1, 3_000).astype(int)
    text = words[rng.choice(30_000, lengths.sum(), p=frequency / frequency.sum())]
    fields = review(genre, 0)
    with gzip.open(path, "wb", 6) as file:
        for end, length in zip(lengths.cumsum(), lengths, strict=True):
            fields["review_id"], fields["user_id"] = (rng.bytes(16).hex() for _ in range(2))
            fields["book_id"] = str(rng.integers(1, 30_000_000))
            fields["review_text"] = " ".join(text[end - length : end])
            file.write(json.dumps(fields).encode() + b"\n")


@contextmanager
def started(*command: object, **kwargs: Any) -> Iterator[int]:
    """The port that a Python module prints, which runs meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, **kwargs,
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            yield int(re.findall(r"\d+", process.stdout.readline())[-1])
        finally:
            process.terminate()


def reference(base: str, head: int) -> list[list[str]]:
    """The reference's loop: one genre after another, every line parsed, then sampled; the review_ids."""
    rng, samples = random.Random(42), []
    for genre in SAMPLING_ORDER:
        records = []
        with (
            requests.get(base + file_name(genre), stream=True, timeout=60) as response,
            gzip.open(response.raw, "rt", encoding="utf-8") as file,
        ):
            for line in file:
                records.append(json.loads(line))
                if len(records) == head:
                    break
        samples.append([record["review_id"] for record in rng.sample(records, head // 10)])
    return samples


def ours(base: str, head: int) -> list[list[str]]:
    """What data_loader.py does up to the writing; the review_ids."""
    parameters = Parameters(base, head=head, per_genre=head // 10, train_per_genre=head // 20)
    samples = sample_genres(parameters, Limits())
    return [[r.review_id for r in reviews if r is not None] for _, reviews in samples.values()]


def compare(base: str, head: int, repeats: int, label: str) -> dict[str, float]:
    """Median seconds of both ways, and the median of their ratio; the first turn is not counted."""
    ways = {"reference_s": reference, "ours_s": ours}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    progress, results = Progress(label, repeats + 1, "turns"), []
    for _ in range(repeats + 1):
        for way, work in ways.items():
            begun = time.perf_counter()
            results.append(work(base, head))
            seconds[way].append(time.perf_counter() - begun)
        progress.update(1)
    assert all(result == results[0] for result in results), "the two ways drew different reviews"
    ratios = [a / b for a, b in list(zip(*seconds.values(), strict=True))[1:]]
    return {way: median(values[1:]) for way, values in seconds.items()} | {"speedup": median(ratios)}


def main() -> None:
    """Measure, and print a table and JSON."""
    parser = Parser(__doc__, prog="benchmarks.loading")
    parser.add_argument("--reviews", type=positive_int, default=10_000, help="of each genre that are read")
    parser.add_argument("--repeats", type=positive_int, default=5, help="runs of each way")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, log.level = Path(name), 30
        with get_context("spawn").Pool(os.cpu_count()) as pool:  # half as much again is there to read
            jobs = [(folder / file_name(genre), genre, options.reviews * 3 // 2) for genre in SAMPLING_ORDER]
            pool.starmap(write_genre, jobs)
        port = stack.enter_context(started("http.server", 0, "--bind", "127.0.0.1", cwd=folder))
        shape = ("--target", port, "--latency", LATENCY, "--rate", RATE)
        ports = {"loopback": port, "slow line": stack.enter_context(started("tests.shaping_proxy", *shape))}
        figures = {
            line: compare(f"http://127.0.0.1:{port}/", options.reviews, options.repeats, line)
            for line, port in ports.items()
        }
    for line, values in figures.items():
        print(f"{line:<12}", *(f"{key} {value:.3f}" for key, value in values.items()), sep="  ")
    print(json.dumps({"benchmark": "loading", "reviews_per_genre": options.reviews, **figures}))


if __name__ == "__main__":
    run(main, "benchmarks.loading")

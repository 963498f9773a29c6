"""How fast reviews are read, against the reference's loop.

    python -m benchmarks.loading                # a minute
    python -m benchmarks.loading --repeats 9    # more runs, steadier medians

Eight generated files, as long and as compressible as the real ones' beginnings, are served on this machine:
as fast as it can, and with the latency and the bandwidth of a distant server. Both ways run in turns.
The last stdout line is one JSON document.
"""

import gzip
import json
import random
import tempfile
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from multiprocessing import Process, Queue
from statistics import median
from timeit import timeit
from typing import Any

import requests

from goodreads.common.cli import Parser, positive_int, run
from goodreads.data.genres import SAMPLING_ORDER, file_name
from goodreads.data.sample_reviews import review
from goodreads.data.sampling import Parameters, sample_split

LATENCY, RATE = 0.02, 4e6  # seconds of a round trip; bytes per second and connection


def write_genre(path: str, genre: str, reviews: int) -> None:
    """``reviews`` lines of about 1,000 bytes in the UCSD format, which gzip makes about 350 of."""
    rng = random.Random(genre)
    with gzip.open(path, "wt", 6) as file:
        for number in range(reviews):
            noise = {"date_added": rng.randbytes(190).hex()}  # generated texts alone are too easy to compress
            print(json.dumps(review(genre, number) | noise), file=file)


class Server(SimpleHTTPRequestHandler):
    """Serves files without a line on stderr for each request."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class SlowLine(Server):
    """Serves files with the latency and the bandwidth of a distant server."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        """Send the body after two round trips, those of the handshake and of the request."""
        time.sleep(2 * LATENCY)
        while part := source.read(1 << 14):
            time.sleep(len(part) / RATE)
            outputfile.write(part)


def serve(folder: str, handler: type[Server], ports: Any) -> None:
    """Serve a folder on a free port, which goes into the queue ``ports``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder))
    ports.put(server.server_port)
    server.serve_forever()


def reference(base: str, head: int) -> None:
    """The reference's loop: one genre after another, every line parsed, then sampled."""
    rng = random.Random(42)
    for genre in SAMPLING_ORDER:
        response = requests.get(base + file_name(genre), stream=True, timeout=60)
        with response, gzip.open(response.raw, "rt", encoding="utf-8") as file:
            rng.sample([json.loads(line) for line in islice(file, head)], head // 10)


def ours(base: str, head: int) -> None:
    """What data_loader.py does up to the writing."""
    sample_split(Parameters(base, head=head, per_genre=head // 10, train_per_genre=head // 20))


def compare(base: str, head: int, repeats: int) -> dict[str, float]:
    """Median seconds of both ways, which run in turns, and their ratio; the first turn is not counted."""
    ways = [partial(way, base, head) for way in (reference, ours)]
    turns = [[timeit(way, number=1) for way in ways] for _ in range(repeats + 1)]
    theirs, own = (median(seconds) for seconds in zip(*turns[1:]))
    return {"reference_s": theirs, "ours_s": own, "speedup": theirs / own}


def main() -> None:
    """Measure, and print a table and JSON."""
    parser = Parser(__doc__, prog="benchmarks.loading")
    parser.add_argument("--reviews", type=positive_int, default=10_000, help="of each genre that are read")
    parser.add_argument("--repeats", type=positive_int, default=5, help="runs of each way")
    options = parser.parse_args()
    figures: dict[str, Any] = {"benchmark": "loading", "reviews_per_genre": options.reviews}
    with tempfile.TemporaryDirectory() as folder:
        for genre in SAMPLING_ORDER:
            write_genre(f"{folder}/{file_name(genre)}", genre, options.reviews * 3 // 2)  # more than is read
        for line, handler in (("loopback", Server), ("slow line", SlowLine)):
            ports: Any = Queue()
            server = Process(target=serve, args=(folder, handler, ports), daemon=True)
            server.start()
            figures[line] = compare(f"http://127.0.0.1:{ports.get()}/", options.reviews, options.repeats)
            server.kill()
            print(f"{line:<12}", *(f"{name} {value:.3f}" for name, value in figures[line].items()), sep="  ")
    print(json.dumps(figures))


if __name__ == "__main__":
    run(main, "benchmarks.loading")

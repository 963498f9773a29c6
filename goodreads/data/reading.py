"""Reading the genres side by side: one thread and at most one connection each, one progress line each."""

import queue
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from threading import Event, Thread
from typing import TypeVar

from goodreads.common.progress import Progress, log
from goodreads.data.review_files import Damaged, Source, Stream
from goodreads.data.review_parser import BadLine, Review, parse_review
from goodreads.data.sampling import Sampler

T = TypeVar("T")
GRACE = 2.0  # seconds that the other genres get to end after a failure


@dataclass
class BadLines:
    """The lines of one genre that are not reviews, of which an option tolerates some.

    Attributes:
        tolerated: how many.
        problems: one message each.
    """

    tolerated: int = 0
    problems: list[str] = field(default_factory=list)

    def parse(self, line: bytes, name: str, index: int) -> Review | None:
        """The review on a line, or None for a bad one; raises BadLine where it is one too many."""
        try:
            return parse_review(line, name, index)
        except BadLine as error:
            self.problems.append(str(error))
            if len(self.problems) <= self.tolerated:
                log.warning("left out: %s", error)
                return None
            if self.tolerated:
                raise BadLine(f"{error}; it is bad line {len(self.problems)} of this file") from error
            raise BadLine(f"{error}; --max-bad-lines leaves a few out") from error


@dataclass
class Sampled:
    """What was read of one genre.

    Attributes:
        lines: lines read, at most the limit asked for.
        bytes: compressed bytes read.
        reviews: the sampled reviews in draw order; None where the line was bad and is tolerated.
        bad: messages on those.
    """

    lines: int
    bytes: int
    reviews: list[Review | None]
    bad: list[str]


def sample_lines(
    stream: Stream, limit: int | None, sampler: Sampler, bad: BadLines, progress: Progress
) -> Sampled:
    """Read the first ``limit`` lines (None: all) and parse the sampled ones.

    Raises:
        InputError: as ``Stream.blocks``, or a sampled line is not a review.
    """
    count, wanted = 0, sampler.next
    with closing(stream.blocks()) as blocks:
        for text, start, end in blocks:
            before = count
            # looking for each newline takes a third of the time of splitting
            while start < end and count != limit:
                line_end = text.find(b"\n", start)
                if count == wanted:
                    sampler.take(text[start:line_end])
                    wanted = sampler.next
                count += 1
                start = line_end + 1
            progress.update(count - before)
            if count == limit:
                break
    reviews = [bad.parse(line, stream.name, index) for index, line in sampler.kept()]
    return Sampled(count, stream.bytes, reviews, bad.problems)


def _traffic(stream: Stream, seconds: float) -> str:
    """For the progress: megabytes, their rate, and broken connections."""
    retries = f", {stream.retries} retries" if stream.retries else ""
    return f"{stream.bytes / 1e6:.1f} MB, {stream.bytes / 1e6 / max(seconds, 1e-9):.1f} MB/s{retries}"


def each_genre(
    genres: Mapping[str, int | None], source: Source, work: Callable[[str, Stream, Progress], T]
) -> dict[str, T]:
    """Do ``work`` for all genres at once and return its results; the first failure ends the others.

    Args:
        genres: slug -> lines that will be read, for the progress; None where nobody knows.
        source: of the streams.
        work: gets the genre, its stream and its progress.
    """
    stop, results = Event(), dict[str, T]()
    done: queue.SimpleQueue[tuple[str, T | BaseException]] = queue.SimpleQueue()

    def run(position: int, genre: str) -> None:
        stream = Stream(source, genre, stop)
        note = partial(_traffic, stream)
        progress = Progress(genre, genres[genre], "reviews", position=position, note=note)
        try:
            done.put((genre, work(genre, stream, progress)))
            progress.close()
        except BaseException as error:
            if isinstance(error, (Damaged, BadLine)):
                stream.forget()
            done.put((genre, error))

    # daemons: a connection that hangs must not keep a failed or interrupted run alive
    threads = [Thread(target=run, args=(i, genre), daemon=True) for i, genre in enumerate(genres)]
    for thread in threads:
        thread.start()
    try:
        for _ in threads:
            genre, result = done.get()
            if isinstance(result, BaseException):
                raise result
            results[genre] = result
    finally:
        stop.set()
        end = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    return {genre: results[genre] for genre in genres}

"""The eight gzip files: where they come from, their lines while they stream, and all genres at once.

They come from a base URL, a local folder, or ``sample``; each gives a file object of compressed bytes. Memory
is bounded by what the caller keeps, not by the file.
"""

import io
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, as_completed, wait
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

# two to three times as fast as gzip, with the same interface and checks
from isal import igzip, isal_zlib

from goodreads.common.errors import InputError
from goodreads.common.progress import Progress, log
from goodreads.data.genres import file_name
from goodreads.data.resumable_http import Download
from goodreads.data.review_parser import Review, parse_review
from goodreads.data.sample_reviews import MOST_REVIEWS, gzip_file

T = TypeVar("T")
UCSD = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/byGenre/"
PROGRESS_LINES = 1_000  # between two looks at the clock
GRACE = 2.0  # seconds that the other genres get to end after a failure


class ReviewFile:
    """One genre's file, for reading once.

    Attributes:
        genre: its slug.
        where: its URL or path, for messages and the manifest.
        name: genre and ``where``, for messages.
        count: lines read so far.
        bad_lines: a message for each line that is not a review and was left out.
    """

    def __init__(self, source: str, genre: str, stop: Event) -> None:
        """Open nothing before the first line is asked for.

        Args:
            source: URL of a folder, local folder, or ``sample``.
            genre: slug.
            stop: when set, waits and reads end in an InputError.
        """
        self.genre, self.count = genre, 0
        self.bad_lines: list[str] = []
        self.where = f"{'sample:' if source == 'sample' else source.rstrip('/') + '/'}{file_name(genre)}"
        self.name = f"{genre}: {self.where}"
        self._source, self._stop = source, stop

    def lines(self, limit: int | None = None) -> Generator[bytes, None, None]:
        """The first ``limit`` lines (None: all); the last may lack its newline.

        Raises:
            InputError: the file is missing, not gzip, damaged, truncated or cannot be fetched.
        """
        progress = Progress(self.genre, limit, "reviews")
        try:
            with self._open(limit) as raw, igzip.open(raw) as file:
                for line in islice(file, limit):
                    self.count += 1
                    if self.count % PROGRESS_LINES == 0:
                        progress.update(PROGRESS_LINES)
                        if self._stop.is_set():
                            raise InputError("reading was stopped")
                    yield line
        except (EOFError, OSError, ValueError, isal_zlib.error) as error:  # type: ignore[misc]
            problem = f"cannot be read after line {self.count:,}: {error}"
            raise InputError(f"{self.name} {problem}; check --source, or fetch it again") from error
        progress.update(self.count % PROGRESS_LINES)
        progress.close()

    def reviews(self, lines: Iterable[tuple[int, bytes]], tolerated: int) -> Iterator[Review | None]:
        """Parse some of the lines, each with its index; None for a bad line.

        Raises:
            InputError: more lines than ``tolerated`` are not a review.
        """
        for index, line in lines:
            try:
                yield parse_review(line, self.name, index)
            except InputError as error:
                self.bad_lines.append(str(error))
                if (n := len(self.bad_lines)) > tolerated:
                    advice = f"bad line {n} of this file: --max-bad-lines leaves some out"
                    raise InputError(f"{error}; {advice}") from error
                log.warning("left out: %s", error)
                yield None

    def manifest_entry(self) -> dict[str, Any]:
        """What the manifest says of the file once it is read."""
        return {"file": self.where, "reviews_read": self.count, "bad_lines": self.bad_lines}

    def _open(self, limit: int | None) -> io.RawIOBase | io.BytesIO:
        if self._source == "sample":
            return io.BytesIO(gzip_file(self.genre, min(limit or MOST_REVIEWS, MOST_REVIEWS)))
        if "://" in self._source:
            return Download(self.where, self._stop)
        return Path(self.where).open("rb", buffering=0)


def read_genres(
    source: str, genres: Iterable[str], work: Callable[[ReviewFile], T]
) -> dict[str, tuple[ReviewFile, T]]:
    """Read all genres at once, a thread each; a failure ends the others.

    Args:
        source: URL of a folder, local folder, or ``sample``.
        genres: slugs, in the order of the result.
        work: reads one file.

    Returns:
        For each genre its file, and what ``work`` returned.
    """
    stop = Event()
    jobs = [(ReviewFile(source, genre, stop), Future[T]()) for genre in genres]
    results = [result for _, result in jobs]

    def run(file: ReviewFile, result: Future[T]) -> None:
        try:
            result.set_result(work(file))
        except BaseException as error:
            result.set_exception(error)

    try:
        for job in jobs:
            # not an executor: its threads keep an interrupted process alive until a connection times out
            Thread(target=run, args=job, daemon=True).start()
        for result in as_completed(results):
            result.result()  # raises the first failure
    finally:
        stop.set()
        wait(results, GRACE)
    return {file.genre: (file, result.result()) for file, result in jobs}

"""The eight gzip files: where they come from, their lines while they stream, and all genres at once.

A source is a base URL, a local folder, or ``sample``; each gives a file object of compressed bytes. Memory is
bounded by what the caller keeps, not by the file.
"""

import io
import queue
import re
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from gzip import BadGzipFile
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar

# two to three times as fast as gzip, with the same interface and checks
from isal import igzip, isal_zlib

from goodreads.common.errors import InputError
from goodreads.common.progress import Progress
from goodreads.data.genres import file_name
from goodreads.data.resumable_http import Download, Limits
from goodreads.data.sample_reviews import MOST_REVIEWS, gzip_file

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")
UCSD = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/byGenre/"
CHUNK = 1 << 16  # bytes a read asks for: the most that is read past what is needed
LONGEST_LINE = 64 << 20  # bytes
PROGRESS_LINES = 1_000  # between two looks at the clock
BOM = b"\xef\xbb\xbf"
GRACE = 2.0  # seconds that the other genres get to end after a failure


@dataclass(frozen=True)
class Source:
    """Where the files are and how they are fetched.

    Attributes:
        base: URL of a folder, local folder, or ``sample``.
        limits: patience with the network.
    """

    base: str = UCSD
    limits: Limits = field(default_factory=Limits)

    def describe(self, genre: str) -> str:
        """The URL or path of a genre's file, for messages and the manifest."""
        name = file_name(genre)
        if self.base == "sample":
            return f"sample:{name}"
        return f"{self.base.rstrip('/')}/{name}" if "://" in self.base else str(Path(self.base) / name)


class _Counted(io.RawIOBase):
    """Passes a file of bytes on, at most ``CHUNK`` at a time, counts them, and can be stopped."""

    def __init__(self, raw: io.RawIOBase | io.BytesIO, stop: Event) -> None:
        self.raw, self._stop = raw, stop
        self.count, self.head = 0, b""

    def readinto(self, buffer: "WriteableBuffer") -> int:
        if self._stop.is_set():
            raise InputError("reading was stopped")
        view = memoryview(buffer).cast("B")[:CHUNK]
        count = self.raw.readinto(view) or 0
        self.count += count
        self.head = self.head or bytes(view[:count])
        return count


class ReviewFile:
    """One genre's file, for reading once.

    Attributes:
        genre: its slug.
        where: its URL or path, for messages and the manifest.
        name: genre and ``where``, for messages.
        count: lines read so far.
    """

    def __init__(self, source: Source, genre: str, stop: Event, position: int = 0) -> None:
        """Open nothing before the first line is asked for.

        Args:
            source: where the file is.
            genre: slug.
            stop: when set, waits and reads end in an InputError.
            position: line of the terminal where the progress is shown.
        """
        self.genre, self.where, self.count = genre, source.describe(genre), 0
        self.name = f"{genre}: {self.where}"
        self._source, self._stop, self._position = source, stop, position
        self._body = _Counted(io.BytesIO(), stop)

    @property
    def bytes_read(self) -> int:
        """Compressed bytes read so far."""
        return self._body.count

    def manifest_entry(self, bad_lines: list[str]) -> dict[str, Any]:
        """What the manifest says of it once it is read."""
        counts = {"reviews_read": self.count, "bytes_read": self.bytes_read}
        return {"file": self.where, **counts, "bad_lines": bad_lines}

    def lines(self, limit: int | None = None) -> Generator[bytes, None, None]:
        """The first ``limit`` lines (None: all), without a byte order mark; the last may lack its newline.

        Raises:
            InputError: the file is missing, not gzip, damaged, truncated or cannot be fetched, or has a line
                of more than ``LONGEST_LINE`` bytes.
        """
        progress = Progress(self.genre, limit, "reviews", self._position, note=self._traffic)
        with closing(self._open(limit)) as raw:
            self._body = _Counted(raw, self._stop)
            try:
                with igzip.open(self._body) as file:
                    for line in islice(iter(partial(file.readline, LONGEST_LINE + 1), b""), limit):
                        if len(line) > LONGEST_LINE:
                            raise InputError(f"{self.name} has a line of more than {LONGEST_LINE:,} bytes")
                        self.count += 1
                        if self.count % PROGRESS_LINES == 0:
                            progress.update(PROGRESS_LINES)
                        yield line if self.count > 1 else line.removeprefix(BOM)
            except (EOFError, BadGzipFile, isal_zlib.error) as error:  # type: ignore[misc]
                raise InputError(f"{self.name} is {self._damage(error)}") from error
            except OSError as error:
                raise InputError(f"{self.where}: {error.strerror or error}; check --source") from error
        if not self.bytes_read:
            raise InputError(f"{self.name} is empty; fetch it again")
        progress.update(self.count % PROGRESS_LINES)
        progress.close()

    def _open(self, limit: int | None) -> io.RawIOBase | io.BytesIO:
        if self._source.base == "sample":
            return io.BytesIO(gzip_file(self.genre, min(limit or MOST_REVIEWS, MOST_REVIEWS)))
        if "://" in self._source.base:
            return Download(self.where, self._stop, self._source.limits)
        try:
            return Path(self.where).open("rb", buffering=0)
        except (OSError, ValueError) as error:
            raise InputError(f"{self.where}: {getattr(error, 'strerror', error)}; check --source") from error

    def _damage(self, error: Exception) -> str:
        head = self._body.head
        if head[:2] != b"\x1f\x8b"[: len(head)]:
            return f"not a gzip file: {_looks_like(head)}; check --source"
        if isinstance(error, EOFError):
            return f"truncated at byte {self.bytes_read:,}; fetch it again"
        return f"damaged before byte {self.bytes_read:,} ({error}); fetch it again"

    def _traffic(self, seconds: float) -> str:
        """Megabytes, their rate, and broken connections, for the progress."""
        megabytes, retries = self.bytes_read / 1e6, getattr(self._body.raw, "retries", 0)
        rate = megabytes / max(seconds, 1e-9)
        return f"{megabytes:.1f} MB, {rate:.1f} MB/s" + (f", {retries} retries" if retries else "")


def _looks_like(head: bytes) -> str:
    if title := re.search(rb"<title>(.*?)</title>", head, re.I | re.S):
        return f"an HTML page titled {title.group(1).decode('utf-8', 'replace').strip()!r}"
    if head.lstrip()[:1] == b"<":
        return "an HTML or XML page"
    return f"it begins with {head[:16]!r}"


def read_genres(source: Source, genres: Iterable[str], work: Callable[[ReviewFile], T]) -> dict[str, T]:
    """Read all genres at once, a thread each, and return what ``work`` returns; a failure ends the others.

    Args:
        source: where the files are.
        genres: slugs, in the order of the result.
        work: reads one file.
    """
    stop, done = Event(), queue.SimpleQueue[tuple[str, T | BaseException]]()

    def run(file: ReviewFile) -> None:
        try:
            done.put((file.genre, work(file)))
        except BaseException as error:
            done.put((file.genre, error))

    files = [ReviewFile(source, genre, stop, position) for position, genre in enumerate(genres)]
    # not an executor: its threads keep an interrupted process alive until a hanging connection times out
    threads = [Thread(target=run, args=(file,), daemon=True) for file in files]
    results: dict[str, T] = {}
    try:
        for thread in threads:
            thread.start()
        while len(results) < len(files):
            genre, result = done.get()
            if isinstance(result, BaseException):
                raise result
            results[genre] = result
    finally:
        stop.set()
        end = time.monotonic() + GRACE
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    return {file.genre: results[file.genre] for file in files}

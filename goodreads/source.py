"""Where the gzip files come from, and how the wanted lines are taken out of them while they stream.

A source is a base URL, a local folder, or ``sample``; all three become chunks of compressed bytes and
take the same path from there. Memory is bounded by what is kept, not by the file.
"""

import json
import re
import zlib
from collections.abc import Collection, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from goodreads import sample
from goodreads.cli import InputError, Progress
from goodreads.download import CHUNK, http_chunks

UCSD = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/byGenre/"
FIELDS = ("review_id", "book_id", "user_id", "review_text", "rating")


@dataclass
class GenreLines:
    """What was read of one genre.

    Attributes:
        lines: lines read, at most the limit asked for.
        bytes: compressed bytes read.
        records: line index (from 0) -> the record's ``FIELDS``, for the wanted lines.
    """

    lines: int = 0
    bytes: int = 0
    records: dict[int, dict[str, Any]] = field(default_factory=dict)


def describe(source: str, genre: str) -> str:
    """The URL or path of a genre's file, for messages and the manifest."""
    name = f"goodreads_reviews_{genre}.json.gz"
    if source == "sample":
        return f"sample:{name}"
    return f"{source.rstrip('/')}/{name}" if "://" in source else str(Path(source) / name)


def read_lines(
    source: str, genre: str, limit: int, wanted: Collection[int], progress: Progress, stop: Event
) -> GenreLines:
    """Read the first ``limit`` lines of a genre and keep the wanted ones.

    Args:
        source: base URL, folder or ``sample``.
        genre: slug.
        limit: lines to read at most; reading stops there and the connection is closed.
        wanted: line indices (from 0) whose records are kept.
        progress: counts lines.
        stop: reading ends early once it is set.

    Raises:
        InputError: the file is missing, not gzip, damaged or truncated, or a wanted line is not a review.
    """
    where, read = describe(source, genre), GenreLines()

    def counted(chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            read.bytes += len(chunk)
            yield chunk

    with closing(_chunks(source, genre, where, stop)) as chunks:
        for line in gzip_lines(counted(chunks), where):
            if read.lines in wanted:
                read.records[read.lines] = parse_review(line, where, read.lines)
            read.lines += 1
            progress.update(1)
            if read.lines == limit or stop.is_set():
                break
    return read


def gzip_lines(chunks: Iterable[bytes], where: str) -> Iterator[bytes]:
    """The lines (without their newline) of gzip data that arrives in chunks.

    Raises:
        InputError: the data is not gzip, is damaged, or ends in the middle of a gzip member.
    """
    unpacker, rest, started = zlib.decompressobj(wbits=31), b"", False
    for chunk in chunks:
        if not started and chunk[:2] != b"\x1f\x8b"[: len(chunk)]:
            raise InputError(f"{where} is not a gzip file: {_looks_like(chunk)}; check --source")
        started = True
        while chunk:
            if unpacker.eof:
                if not chunk.strip(b"\0"):
                    break  # padding after the end, which gzip allows
                unpacker = zlib.decompressobj(wbits=31)  # a gzip file may have several members
            try:
                text = unpacker.decompress(chunk)
            except zlib.error as error:
                raise InputError(f"{where} is damaged ({error}); fetch it again") from error
            chunk = unpacker.unused_data
            *lines, rest = (rest + text).split(b"\n")
            yield from lines
    if not unpacker.eof:
        raise InputError(f"{where} is {'truncated' if started else 'empty'}; fetch it again")
    if rest:
        yield rest


def parse_review(line: bytes, where: str, index: int) -> dict[str, Any]:
    """One JSON line to its ``FIELDS``; raises InputError naming the line (from 1) if it is not a review."""
    place = f"{where}, line {index + 1:,}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON ({error}); the source is damaged") from error
    if not isinstance(record, dict):
        raise InputError(f"{place} is not a JSON object; the source is not in the UCSD format")
    values = {name: record.get(name) for name in FIELDS}
    for name, value in values.items():
        kind = int if name == "rating" else str
        if type(value) is not kind or (type(value) is int and abs(value) >= 1 << 63):
            raise InputError(f"{place} has no {name} of type {kind.__name__}; not in the UCSD format")
        if isinstance(value, str):
            values[name] = _well_formed(value)
    return values


def _well_formed(text: str) -> str:
    """JSON may escape half a surrogate pair, which no UTF-8 file can hold: U+FFFD stands for it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _chunks(source: str, genre: str, where: str, stop: Event) -> Generator[bytes, None, None]:
    if source == "sample":
        return sample.gzip_chunks(genre)
    return http_chunks(where, stop) if "://" in source else _file_chunks(Path(where))


def _file_chunks(path: Path) -> Generator[bytes, None, None]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check --source") from error


def _looks_like(chunk: bytes) -> str:
    if title := re.search(rb"<title>(.*?)</title>", chunk, re.I | re.S):
        return f"an HTML page titled {title.group(1).decode('utf-8', 'replace').strip()!r}"
    if chunk.lstrip()[:1] == b"<":
        return "an HTML or XML page"
    return f"it begins with {chunk[:16]!r}"

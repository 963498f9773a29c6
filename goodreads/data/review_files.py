"""Where the gzip files come from, and how their lines are read while they stream.

A source is a base URL, a local folder, or ``sample``; all three become chunks of compressed bytes and
take the same path from there. Memory is bounded by what is kept, not by the file.
"""

import os
import re
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import NamedTuple

# igzip unpacks reviews 2 to 3 times as fast as zlib, with zlib's interface and its CRC check, and releases
# the GIL (benchmarks/loading.py; docs/data.md has the figures)
from isal import igzip_lib, isal_zlib

from goodreads.common.errors import InputError
from goodreads.data import sample_reviews as sample
from goodreads.data.cache import Prefix
from goodreads.data.genres import file_name
from goodreads.data.resumable_http import CHUNK, Changed, Download, Limits

UCSD = "https://mcauleylab.ucsd.edu/public_datasets/gdrive/goodreads/byGenre/"
BLOCK = 1 << 20  # bytes of text unpacked at a time: bounds the memory whatever the compression
LONGEST_LINE = 64 << 20  # bytes
BOM = b"\xef\xbb\xbf"


class Block(NamedTuple):
    """Whole lines: ``text[start:end]``, which ends with a newline."""

    text: bytes
    start: int
    end: int

    def lines(self) -> list[bytes]:
        """The lines without their newlines."""
        return self.text[self.start : self.end - 1].split(b"\n")


class Damaged(InputError):
    """What arrived is not the gzip file that was asked for."""


@dataclass(frozen=True)
class Source:
    """Where the files are and how they are fetched.

    Attributes:
        base: URL of a folder, local folder, or ``sample``.
        cache: folder that keeps what is fetched from a URL, or None.
        limits: patience with the network.
    """

    base: str = UCSD
    cache: Path | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def remote(self) -> bool:
        """Whether the files come over the network."""
        return "://" in self.base

    def describe(self, genre: str) -> str:
        """The URL or path of a genre's file, for messages and the manifest."""
        name = file_name(genre)
        if self.base == "sample":
            return f"sample:{name}"
        return f"{self.base.rstrip('/')}/{name}" if self.remote else str(Path(self.base) / name)


class Stream:
    """One genre's file while it is read.

    Attributes:
        where: the URL or path, for messages and the manifest.
        name: genre and ``where``, for messages.
        bytes: compressed bytes read, fetched now or before.
        version: what the server called the file (ETag or Last-Modified); for a local file its size and
            modification time; empty where nothing is known.
    """

    def __init__(self, source: Source, genre: str, stop: Event) -> None:
        """Nothing is opened before the first line is asked for; ``stop`` ends waits and reading."""
        self.where = source.describe(genre)
        self.name = f"{genre}: {self.where}"
        self.bytes, self.version = 0, ""
        self._source, self._genre, self._stop = source, genre, stop
        self._download: Download | None = None
        self._prefix: Prefix | None = None

    @property
    def retries(self) -> int:
        """Connections that broke so far."""
        return self._download.retries if self._download else 0

    def blocks(self) -> Generator[Block, None, None]:
        """The file's lines, some at a time, in order.

        Raises:
            InputError: the file is missing, not gzip, damaged or truncated, or cannot be fetched.
        """
        with closing(self._chunks()) as chunks:
            yield from line_blocks(self._counted(chunks), self.name)

    def forget(self) -> None:
        """Drop what the cache holds of this file: it turned out to be damaged."""
        if self._prefix:
            self._prefix.drop()

    def _counted(self, chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
        for chunk in chunks:
            if self._stop.is_set():
                raise InputError(f"{self.name}: reading was stopped")
            self.bytes += len(chunk)
            yield chunk

    def _chunks(self) -> Generator[bytes, None, None]:
        if self._source.base == "sample":
            return sample.gzip_chunks(self._genre)
        if not self._source.remote:
            return self._local()
        return self._cached(self._source.cache) if self._source.cache else self._fetch()

    def _local(self) -> Generator[bytes, None, None]:
        try:
            with Path(self.where).open("rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                self.version = f"{status.st_size}-{status.st_mtime_ns}"
                while chunk := file.read(CHUNK):
                    yield chunk
        except OSError as error:
            raise InputError(f"{self.where}: {error.strerror}; check --source") from error

    def _fetch(self, position: int = 0, version: str = "") -> Generator[bytes, None, None]:
        self._download = Download(self.where, self._stop, self._source.limits, position, version)
        for chunk in self._download.chunks():
            self.version = self._download.version
            yield chunk

    def _cached(self, folder: Path) -> Generator[bytes, None, None]:
        """What is held first, then the rest from the server, which is kept too."""
        prefix = self._prefix = Prefix(folder, self.where)
        self.version = prefix.version
        try:
            yield from prefix.chunks()
            if not prefix.complete:
                for chunk in self._fetch(prefix.bytes, prefix.version):
                    prefix.append(chunk, self.version)
                    yield chunk
        except Changed:
            prefix.drop()
            raise
        finally:
            prefix.close(prefix.complete or bool(self._download and self._download.complete))


def line_blocks(chunks: Iterable[bytes], name: str) -> Generator[Block, None, None]:
    """The lines of gzip data that arrives in chunks.

    A byte order mark before the first line is left out; a last line without a newline gets one.

    Raises:
        Damaged: the data is not gzip, is damaged, ends in the middle of a gzip member, or holds a line
            of more than ``LONGEST_LINE`` bytes.
    """
    begun: list[bytes] = []  # the line that has begun
    size, first = 0, True

    def block(text: bytes, start: int, end: int) -> Block:
        nonlocal first
        mark, first = first and text.startswith(BOM, start), False
        return Block(text, start + len(BOM) * mark, end)

    for text in _unpack(chunks, name):
        start, end = 0, text.rfind(b"\n") + 1
        if end and begun:
            until = text.find(b"\n") + 1
            line = b"".join([*begun, text[start:until]])
            yield block(line, 0, len(line))
            start, begun, size = until, [], 0
        if end > start:
            yield block(text, start, end)
        if rest := text[max(start, end) :]:
            begun.append(rest)
            size += len(rest)
            if size > LONGEST_LINE:
                raise Damaged(f"{name} has a line of more than {LONGEST_LINE:,} bytes; not UCSD's format")
    if begun:
        line = b"".join([*begun, b"\n"])
        yield block(line, 0, len(line))


def _unpack(chunks: Iterable[bytes], name: str) -> Generator[bytes, None, None]:
    """Gzip members (RFC 1952) to their bytes, at most ``BLOCK`` at a time."""
    unpacker, position, first = isal_zlib.decompressobj(wbits=31), 0, b""
    for chunk in chunks:
        if len(first) < 2:
            first += chunk[:256]
            if first[:2] != b"\x1f\x8b"[: len(first)]:
                raise Damaged(f"{name} is not a gzip file: {_looks_like(chunk)}; check --source")
        left = chunk
        while left:
            if unpacker.eof:
                if not left.strip(b"\0"):
                    break  # padding after the end, which gzip allows
                unpacker = isal_zlib.decompressobj(wbits=31)  # a gzip file may have several members
            try:
                text = unpacker.decompress(left, BLOCK)
            except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub says no class
                raise Damaged(
                    f"{name} is damaged near byte {position:,} ({error}); fetch it again"
                ) from error
            left = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            if text:
                yield text
        position += len(chunk)
    if not unpacker.eof:
        state = f"truncated at byte {position:,}" if first else "empty"
        raise Damaged(f"{name} is {state}; fetch it again")


def _looks_like(chunk: bytes) -> str:
    if title := re.search(rb"<title>(.*?)</title>", chunk, re.I | re.S):
        return f"an HTML page titled {title.group(1).decode('utf-8', 'replace').strip()!r}"
    if chunk.lstrip()[:1] == b"<":
        return "an HTML or XML page"
    return f"it begins with {chunk[:16]!r}"

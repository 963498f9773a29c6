"""The compressed beginning of each file, kept between runs and trusted by hash only.

In the cache folder a file's bytes stand under ``<hash of its URL>-<its name>`` and are only ever appended
to; ``<the same>.json`` beside it vouches for the first of them: ``url``, ``bytes``, ``sha256``, ``version``
(ETag or Last-Modified) and whether they are the whole file. Bytes beyond those are of a killed run.
"""

import fcntl
import hashlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from goodreads.common.errors import InputError
from goodreads.common.files import read_json, write_json
from goodreads.common.progress import log
from goodreads.data.resumable_http import CHUNK

VOUCH_EVERY = 64 << 20  # bytes: what a kill can cost


class Prefix:
    """One file's beginning, held open by one process at a time.

    Attributes:
        path: where it stands.
        bytes: how many bytes are held and vouched for.
        version: what the server called the file.
        complete: whether these bytes are the whole file.
    """

    def __init__(self, folder: Path, url: str) -> None:
        """Open it, checking what is there by its hash; what fails the check is dropped with a warning.

        Raises:
            InputError: the folder cannot be written, or another process reads this file through it.
        """
        self.path = folder / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{url.rpartition('/')[2]}"
        self._vouch = self.path.with_name(f"{self.path.name}.json")
        self._url, self.bytes, self.version, self.complete = url, 0, "", False
        self._digest = hashlib.sha256()
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            self._file: BinaryIO = self.path.open("a+b")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"--cache: another process is using {self.path}; wait for it") from None
        self._check()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(f"--cache: cannot write {self.path}: {error.strerror}") from error

    def _check(self) -> None:
        if self._vouch.exists():
            try:
                entry = read_json(self._vouch, "running again")
                self.bytes, self.version = int(entry["bytes"]), str(entry["version"])
                self.complete = bool(entry["complete"])
                for block in self.chunks():
                    self._digest.update(block)
                problem = "" if self._digest.hexdigest() == entry["sha256"] else "changed or damaged"
            except (InputError, KeyError, ValueError, TypeError) as error:
                problem = f"{type(error).__name__}: {error}"
            if problem:
                log.warning("--cache: %s is not used and fetched anew: %s", self.path, problem)
                self.drop()
        os.ftruncate(self._file.fileno(), self.bytes)
        self._vouched = self.bytes

    def chunks(self) -> Generator[bytes, None, None]:
        """The bytes held, in order; fewer where the file is shorter than vouched for."""
        left = self.bytes
        self._file.seek(0)
        while left and (block := self._file.read(min(CHUNK, left))):
            left -= len(block)
            yield block

    def append(self, chunk: bytes, version: str) -> None:
        """Add the bytes that follow, of the file that the server calls ``version``."""
        with self._writing():
            self._file.write(chunk)
        self._digest.update(chunk)
        self.bytes += len(chunk)
        self.version = version
        if self.bytes - self._vouched >= VOUCH_EVERY:
            self._write_vouch()

    def drop(self) -> None:
        """Forget the bytes, on the disk too."""
        self.bytes, self.version, self.complete = 0, "", False
        self._digest = hashlib.sha256()
        with suppress(OSError):
            self._vouch.unlink()

    def close(self, complete: bool) -> None:
        """Vouch for what was appended; ``complete`` says that the file ends there."""
        try:
            if self.bytes and (self.bytes, self.complete) != (self._vouched, complete):
                self.complete = complete
                self._write_vouch()
        finally:
            with suppress(OSError):  # a full disk, which was reported
                self._file.close()

    def _write_vouch(self) -> None:
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())  # the bytes before the word for them
        entry = {"url": self._url, "bytes": self.bytes, "sha256": self._digest.hexdigest()}
        write_json(self._vouch, {**entry, "version": self.version, "complete": self.complete})
        self._vouched = self.bytes

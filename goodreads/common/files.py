"""Files and folders that are whole or absent: written under a temporary name, then renamed.

Temporary names are unique and end in ``SUFFIX``; what a killed run leaves behind is removed by the next run
that locks the folder.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from goodreads.common.errors import InputError
from goodreads.common.progress import log

SUFFIX = ".goodreads-tmp"
LOCK = ".goodreads-lock"
_temporaries: set[Path] = set()


def remove_temporaries() -> None:
    """Remove every temporary folder of this process, before it ends at once."""
    for path in list(_temporaries):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn an error of the file system into an InputError that names ``target`` and says what to do."""
    try:
        yield
    except OSError as error:
        said = f"cannot write {target}: {error.strerror or error} (as user {os.geteuid()})"
        hint = "free space or name another folder; for containers see docs/containers.md"
        raise InputError(f"{said}; {hint}") from error


def check_writable(folder: Path) -> None:
    """Raise InputError, saying what to do, unless files can be made in the folder or it can be made."""
    real = Path(os.path.realpath(folder))
    with _writing(folder):
        there = next(path for path in (real, *real.parents) if os.path.lexists(path))
        tempfile.TemporaryFile(dir=there).close()


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold the folder for this process; made if missing, and rid of what killed runs left in it.

    A process may hold a folder more than once.

    Args:
        folder: where the block is going to write.
        wait: wait for another process that holds it, saying so; else that is an error.

    Raises:
        InputError: the folder cannot be made or written to, or another process holds it.
    """
    real = Path(os.path.realpath(folder))
    with _writing(folder):
        real.mkdir(parents=True, exist_ok=True)
        lock = FileLock(real / LOCK, is_singleton=True)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise InputError(f"another run is writing to {folder}; name another folder") from None
            log.warning("another run is writing to %s; waiting for it to end", folder)
            held = lock.acquire()
    with held:
        for leftover in set(real.glob(f".*{SUFFIX}")) - _temporaries:
            shutil.rmtree(leftover, ignore_errors=True)
        yield


@contextmanager
def atomic_files(folder: Path, alone: bool = False) -> Iterator[Path]:
    """Yield a temporary folder whose files all move into ``folder`` when the block ends without an error.

    They move in order of path, the JSON files last: those name the others by hash.

    Args:
        folder: made if missing; may be a link or a mount point.
        alone: remove all else from it, just before they move. A kill meanwhile leaves an incomplete folder,
            never a mixture of old and new files.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.
    """
    folder = Path(os.path.realpath(folder))
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(SUFFIX, ".", folder, ignore_cleanup_errors=True) as name:
            _temporaries.add(temporary := Path(name))
            for part in (new := temporary / "new", old := temporary / "old"):
                part.mkdir()
            yield new
            files = [path for path in new.rglob("*") if path.is_file()]
            for path in files:  # the content reaches the disk before its new name does
                with path.open("rb") as opened:
                    os.fsync(opened.fileno())
            _temporaries.discard(temporary)  # from here on a signal must not remove it
            for path in set(folder.iterdir()) - {temporary} if alone else ():
                path.replace(old / path.name)
            for path in sorted(files, key=lambda path: (path.suffix == ".json", path)):
                target = Path(os.path.realpath(folder / path.relative_to(new)))
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)  # a link may lead to another disk


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8; raises InputError where it cannot be written.

    Bytes of a path that are not UTF-8 become backslash escapes, which JSON reads back.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    with atomic_files(path.parent) as folder:
        (folder / path.name).write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, document: Any) -> None:
    """Replace ``path`` by indented JSON; raises InputError where it cannot be written."""
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """A JSON object from ``path``.

    Args:
        path: the file.
        made_by: the command that makes it, for the error.

    Raises:
        InputError: it is missing, not readable, or not a JSON object.
    """
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; make it with: {made_by}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged or not readable ({error}); make it again: {made_by}") from error
    return document


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_lines(lines: Iterable[str]) -> str:
    """Hex SHA-256 of the lines in UTF-8, each ended by a newline (as ``printf '%s\\n' ... | sha256sum``)."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()

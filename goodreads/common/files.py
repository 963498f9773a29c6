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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from goodreads.common.errors import InputError
from goodreads.common.progress import log

SUFFIX = ".goodreads-tmp"
LOCK = ".goodreads-lock"
_temporaries: set[Path] = set()


def _temporary(path: Path) -> Path:
    """A new name beside ``path`` for what will become ``path``."""
    made = path.with_name(f".{path.name[:100]}.{os.urandom(4).hex()}{SUFFIX}")
    _temporaries.add(made)
    return made


def _remove(path: Path) -> None:
    _temporaries.discard(path)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def remove_temporaries() -> None:
    """Remove every temporary file and folder of this process, before it ends at once."""
    for path in list(_temporaries):
        _remove(path)


def check_writable(folder: Path) -> None:
    """Raise InputError, saying what to do, unless files can be made in the folder or it can be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}; name another folder, or in a container mount one of "
            f"your own and start it as yourself, as docs/containers.md shows (this is user {os.geteuid()})"
        ) from None


@contextmanager
def locked(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold the folder for this process; made if missing, and rid of what killed runs left in it.

    Args:
        folder: where the block is going to write.
        wait: wait for another process that holds it, saying so; else that is an error.

    Raises:
        InputError: the folder cannot be made or written to, or another process holds it.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                raise InputError(
                    f"another run is writing to {folder}; wait for it to end, or name another folder"
                ) from None
            log.warning("another run is writing to %s; waiting for it to end", folder)
            lock.acquire()
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    try:
        for leftover in folder.glob(f".*{SUFFIX}"):
            _remove(leftover)
        yield
    finally:
        lock.release()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without an error.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # the content must reach the disk before the new name
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(temporary)


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files all move into ``folder`` when the block ends without an error.

    They move in order of name, the JSON files last: those name the others by hash.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.
    """
    temporary = _temporary(folder / "files")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        for path in sorted(temporary.iterdir(), key=lambda path: (path.suffix == ".json", path.name)):
            path.replace(Path(os.path.realpath(folder / path.name)))
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        _remove(temporary)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces ``path`` when the block ends without an error.

    A folder cannot replace another in one step: a kill between the two renames leaves no ``path`` at all
    (never a mixture), and the complete new folder under its temporary name. A link to a folder stays a
    link; a mount point, which cannot be renamed, gets the new files one by one in place of the old ones.

    Raises:
        InputError: the parent cannot be written to, or the disk is full.
    """
    path = Path(os.path.realpath(path))
    in_place = path.is_mount()
    temporary, old = _temporary(path / "new" if in_place else path), _temporary(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if in_place:
            _exchange(path, temporary)
        else:
            if path.exists():
                path.replace(old)
            temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        _remove(temporary)
        _remove(old)


def _exchange(folder: Path, new: Path) -> None:
    """Move the files of ``new`` into ``folder``, and remove those that have no successor there."""
    names = {path.name for path in new.iterdir()}
    for path in list(new.iterdir()):
        path.replace(folder / path.name)
    for path in folder.iterdir():
        if path != new and path.name not in {*names, LOCK}:
            _remove(path)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8; raises InputError where it cannot be written.

    Bytes of a path that are not UTF-8 become backslash escapes, which JSON reads back.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


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
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing; make it with: {made_by}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); make it again with: {made_by}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a JSON object; make it again with: {made_by}")
    return document


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_lines(lines: Iterable[str]) -> str:
    """Hex SHA-256 of the lines in UTF-8, each ended by a newline (as ``printf '%s\\n' ... | sha256sum``)."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()

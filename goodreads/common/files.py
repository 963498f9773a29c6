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

from filelock import FileLock, Timeout

from goodreads.common.errors import InputError
from goodreads.common.progress import log

SUFFIX = ".goodreads-tmp"
LOCK = ".goodreads-lock"
_temporaries: set[Path] = set()


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Yield a new name beside ``path`` for what will become ``path``; what is left of it is removed."""
    made = path.with_name(f".{path.name[:40]}.{os.urandom(4).hex()}{SUFFIX}")
    _temporaries.add(made)
    try:
        yield made
    finally:
        _remove(made)


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


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Turn an error of the file system into an InputError that names ``target``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError | TimeoutError):
            raise  # from reading a network connection meanwhile
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def check_writable(folder: Path) -> None:
    """Raise InputError, saying what to do, unless files can be made in the folder or it can be made."""
    real = Path(os.path.realpath(folder))
    there = next(path for path in (real, *real.parents) if os.path.lexists(path))
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror}; name another folder, or in a container mount one of "
            f"your own and start it as yourself, as docs/containers.md shows (this is user {os.geteuid()})"
        ) from None


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
    with _writing(folder):
        real = Path(os.path.realpath(folder))
        real.mkdir(parents=True, exist_ok=True)
        lock = FileLock(real / LOCK, is_singleton=True)
        try:
            held = lock.acquire(timeout=0)
        except Timeout:
            if not wait:
                said = f"another run is writing to {folder}; wait for it to end, or name another folder"
                raise InputError(said) from None
            log.warning("another run is writing to %s; waiting for it to end", folder)
            held = lock.acquire()
    with held:
        for leftover in set(real.glob(f".*{SUFFIX}")) - _temporaries:
            _remove(leftover)
        yield


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without an error.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    with _writing(path), _temporary(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)


@contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files all move into ``folder`` when the block ends without an error.

    They move in order of name, the JSON files last: those name the others by hash.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.
    """
    with _writing(folder), _temporary(folder / "files") as temporary:
        temporary.mkdir(parents=True)
        yield temporary
        _sync(temporary)
        for path in sorted(temporary.iterdir(), key=lambda path: (path.suffix == ".json", path.name)):
            path.replace(Path(os.path.realpath(folder / path.name)))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces ``path`` when the block ends without an error.

    A folder cannot replace another in one step: a kill between the two renames leaves no ``path`` at all
    (never a mixture), and both the old and the complete new folder under temporary names beside it. A link to
    a folder stays a link. A folder that cannot be renamed, such as a mount point, gets the new files one by
    one.

    Raises:
        InputError: the parent cannot be written to, or the disk is full.
    """
    path = Path(os.path.realpath(path))
    in_place = path.is_dir() and (path.is_mount() or not os.access(path.parent, os.W_OK))
    place = path / "new" if in_place else path
    with _writing(path), _temporary(place) as temporary, _temporary(path) as old:
        temporary.mkdir(parents=True)
        yield temporary
        _sync(temporary)
        _temporaries.difference_update({temporary, old})  # from here on a signal must not remove them
        try:
            if path.exists() and not in_place:
                path.replace(old)
        except OSError:  # a mount of the same disk, or a folder of a container's image
            in_place = True
        if in_place:
            _exchange(path, temporary)
            return
        try:
            if (old / LOCK).exists():  # whoever waits for it goes on waiting for the same file
                (old / LOCK).replace(temporary / LOCK)
            temporary.replace(path)
        finally:
            if old.exists() and not path.exists():
                old.replace(path)


def _exchange(folder: Path, new: Path) -> None:
    """Move the files of ``new`` into ``folder``, and remove those that have no successor there."""
    names = {path.name for path in new.iterdir()}
    for path in list(folder.iterdir()):
        if path != new and (path.is_dir() or path.name not in {*names, LOCK}):
            _remove(path)
    for name in sorted(names):
        shutil.move(new / name, folder / name)


def _sync(path: Path) -> None:
    """Let the content reach the disk before its new name does."""
    for file in (part for part in [path, *path.rglob("*")] if part.is_file()):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())


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
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
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

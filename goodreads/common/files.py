"""Files and folders that are whole or absent: written under a temporary name, then renamed.

The temporary name is fixed (``.NAME.tmp``), so what a killed run leaves behind is reused, not piled up.
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


def temporary_name(path: Path) -> Path:
    """Where what will become ``path`` is written; a killed run may leave it."""
    return path.with_name(f".{path.name}.tmp")


def check_writable(folder: Path) -> None:
    """Raise InputError, saying what to do, unless files can be made in the folder or it can be made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write {folder}: {error.strerror} for user {os.getuid()}; in a container mount a folder "
            'of that user, or start it as yourself: --user "$(id -u)" -v "$(pwd)/results:/app/results"'
        ) from None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends without an error.

    Raises:
        InputError: the folder cannot be made or written to, or the disk is full.
    """
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # the rename must not reach the disk before the content
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8; raises InputError where it cannot be written."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


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
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); make it again with: {made_by}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} is not a JSON object; make it again with: {made_by}")
    return document


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces ``path`` when the block ends without an error.

    A folder cannot replace another in one step: a kill between the two renames leaves no ``path`` at
    all (never a mixture), and the complete new folder under its temporary name.

    Raises:
        InputError: the parent cannot be written to, or the disk is full.
    """
    temporary, old = temporary_name(path), path.with_name(f".{path.name}.old")
    try:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.replace(old)
        temporary.replace(path)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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

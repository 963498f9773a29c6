"""The checkout that this code runs from, as git knows it."""

import re
import subprocess
from pathlib import Path


def commit(folder: Path) -> str | None:
    """The commit checked out in ``folder``, with ``-dirty`` if files differ; None outside a checkout."""
    return _git(folder, *"describe --always --abbrev=40 --dirty --exclude=*".split())


def address(folder: Path) -> str:
    """The page of a checkout's remote repository, without user and password; empty if there is none."""
    pattern = r"(?:https://(?:[^@/]*@)?|git@)([\w.-]+)[:/]([\w./-]+?)(?:\.git)?"
    remote = re.fullmatch(pattern, _git(folder, "remote", "get-url", "origin") or "")
    return f"https://{remote[1]}/{remote[2]}" if remote else ""


def _git(folder: Path, *words: str) -> str | None:
    """What a git command prints; None if it fails, or there is no git."""
    command = ["git", *words]
    try:
        return subprocess.check_output(command, cwd=folder, stderr=subprocess.DEVNULL, text=True).strip()
    except (OSError, subprocess.CalledProcessError):
        return None

"""A bar on a terminal, plain lines in a log."""

import os
import pty
import subprocess
import sys
import termios

import pytest

from goodreads.common import progress
from tests.helpers import ROOT


def test_a_log_gets_plain_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with caplog.at_level("INFO", "goodreads"):
        for seconds in (0, 10):
            monkeypatch.setattr(progress, "SECONDS", seconds)
            score = progress.Progress("score", 3000 if seconds else None, "reviews")
            score.update(1000)
            score.close()
    assert [line.rpartition(",")[0] for line in caplog.messages] == [
        *["score: 1,000 reviews"] * 2, "score: 1,000 of 3,000 reviews",
    ]  # fmt: skip


def test_a_terminal_gets_a_bar() -> None:
    code = "from goodreads.common.progress import Progress\np = Progress('score', 9, 'reviews')\n"
    code += "p.update(9)\np.close()"
    here, there = pty.openpty()
    termios.tcsetwinsize(there, (24, 80))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=there, check=True)
    assert b"score: 100%" in os.read(here, 4096)

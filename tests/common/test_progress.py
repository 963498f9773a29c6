"""A bar on a terminal, plain lines in a log."""

import os
import pty
import subprocess
import sys
import termios

import pytest

from goodreads.common.progress import Progress
from tests.helpers import ROOT


def test_a_log_gets_plain_lines(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "goodreads"):
        progress = Progress("score", 3000, "reviews", every=0, note=lambda seconds: f"{seconds >= 0}")
        progress.update(1000)
        progress.close()
        unknown = Progress("read", None, "lines")
        unknown.update(5)
        assert len(caplog.messages) == 2, "not yet time for another line"
        unknown.close()
    assert caplog.messages[0].startswith("score: 1,000 of 3,000 reviews, ")
    assert caplog.messages[0].endswith("/s; True")
    assert caplog.messages[2].startswith("read: 5 lines, ")


def test_a_terminal_gets_a_bar() -> None:
    code = "from goodreads.common.progress import Progress\np = Progress('score', 9, 'reviews')\n"
    code += "p.update(9)\np.close()"
    here, there = pty.openpty()
    termios.tcsetwinsize(there, (24, 80))
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=there, check=True)
    os.close(there)
    shown = b""
    try:
        while chunk := os.read(here, 4096):
            shown += chunk
    except OSError:  # the end, on Linux
        pass
    os.close(here)
    assert b"score: 100%" in shown
    assert b"9/9" in shown

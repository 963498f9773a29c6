"""The command line of the loopback Hub. What it answers is tested by whatever publishes to it."""

import stat
import subprocess
import sys
import time
from pathlib import Path

from tests.helpers import ROOT


def test_the_command_line_serves_until_it_is_stopped(tmp_path: Path) -> None:
    token, url = tmp_path / "token", tmp_path / "url"
    options = ["--root", tmp_path / "hub", "--user", "ada", "--token-file", token, "--url-file", url]
    command = [sys.executable, str(ROOT / "tools" / "loopback_hub.py"), *map(str, options)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            while not (url.exists() and url.read_text()) and process.poll() is None:
                time.sleep(0.01)
            assert line == f"HF_ENDPOINT={url.read_text()} HF_HUB_DISABLE_XET=1\n"
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
        finally:
            process.terminate()
        assert process.wait(10) == 0

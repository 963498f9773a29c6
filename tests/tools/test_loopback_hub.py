"""The command line of the loopback Hub. What it answers is tested by whatever publishes to it."""

import subprocess
import sys
import time
from pathlib import Path

from tests.helpers import ROOT


def test_the_command_line_serves_until_it_is_stopped(tmp_path: Path) -> None:
    token, url = tmp_path / "hub/token", tmp_path / "hub/url"
    options = ["--user", "ada", "--token-file", str(token), "--url-file", str(url)]
    with subprocess.Popen([sys.executable, str(ROOT / "tools/loopback_hub.py"), *options]) as process:
        while not (url.exists() and url.read_text()) and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        assert process.wait(10) == 0
    assert url.read_text().startswith("http://127.0.0.1:") and token.read_text().startswith("hf_")
    assert token.stat().st_mode & 0o777 == 0o600

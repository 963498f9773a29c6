"""The command line of the loopback Hub. What it answers is tested by whatever publishes to it."""

import json
import stat
import subprocess
import sys
import time
import urllib.request
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
            while not url.exists() and process.poll() is None:
                time.sleep(0.01)
            assert line == f"HF_ENDPOINT={url.read_text()} HF_HUB_DISABLE_XET=1\n"
            assert stat.S_IMODE(token.stat().st_mode) == 0o600
            body, headers = (
                b'{"name": "x", "visibility": "public"}',
                {"Authorization": f"Bearer {token.read_text()}"},
            )
            request = urllib.request.Request(f"{url.read_text()}/api/repos/create", body, headers)
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
                assert json.load(answer)["id"] == "ada/x"
        finally:
            process.terminate()
        assert process.wait(10) == 0

"""The benchmarks of the encoder run and report; their figures are for a quiet machine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, environment


def test_the_benchmark_of_loading_reports_a_table_and_json(tmp_path: Path) -> None:
    if not shutil.which("nginx"):
        pytest.skip("nginx is not installed: nothing to serve the benchmark's files")
    options = ("--folder", str(tmp_path), "--reviews", "1200", "--repeats", "1")
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.loading", *options],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["loopback"]["reference_to_ours"] > 0 and document["shaped"]["ours_to_igzip"] > 0
    assert document["head_all"]["reviews"] == 34 * 1200
    assert document["eight_genres_all"]["reviews"] == 8 * 1200

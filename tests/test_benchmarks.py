"""The benchmarks of the encoder run and report; their figures are for a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path

from tests.helpers import ROOT, environment


def test_the_benchmark_of_loading_reports_a_table_and_json(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.loading", "--reviews", "300", "--repeats", "1"],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["loopback"]["speedup"] > 0 and document["slow line"]["speedup"] > 0

"""The benchmarks of the encoder run and report; their figures are for a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import gpu, speed
from tests.helpers import ROOT, environment


def test_the_benchmark_of_loading_reports_a_table_and_json(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks.loading", "--reviews", "300", "--repeats", "1"],
        cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["loopback"]["speedup"] > 0 and document["slow line"]["speedup"] > 0


def test_the_benchmarks_of_the_encoder_time_all_ways_on_a_cpu(tmp_path: Path) -> None:
    speed.write_model(speed.TINY, tmp_path)
    figures = speed.one_repeat(tmp_path, speed.TINY, (2, 8, 1))
    assert figures.keys() >= speed.BARS.keys() and all(value > 0 for value in figures.values())
    figures = gpu.time_training(tmp_path, speed.TINY, "default", 2)
    assert figures["default_packed"] and figures["default_ms_per_step"] > 0
    assert gpu.time_scoring(tmp_path, speed.TINY, 4)["bfloat16_first_seconds"] > 0

"""The benchmarks of the encoder run and report; their figures are for a quiet machine."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, environment


@pytest.mark.parametrize(
    ("name", "arguments", "figures"),
    [
        (
            "evaluation",
            ("--reviews", "8", "16", "32"),
            {"float32_per_reference", "bfloat16_per_pipeline", "bfloat16_of_matmul", "peak_gb"},
        ),
        ("training", ("--steps", "1", "2"), {"per_reference", "of_matmul", "padding_share"}),
        ("padding", ("--steps", "1"), {"unpadded_per_padded", "padding_share"}),
    ],
)
def test_a_benchmark_reports_a_table_and_json(
    tmp_path: Path, name: str, arguments: tuple[str, ...], figures: set[str]
) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--shape", "tiny", "--repeats", "1", *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=280
    )
    assert result.returncode == 0, result.stderr[-3000:]
    *table, last = result.stdout.splitlines()
    document = json.loads(last)
    assert document["benchmark"] == name
    assert document.get("bars", {}).keys() <= document.keys()
    for figure in figures:
        assert document[figure] > 0
        assert any(line.startswith(figure) for line in table)


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

"""The benchmarks run and report; their figures are for a quiet machine."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu
from tests.helpers import ROOT, environment, succeeded

RUNS = {  # benchmark -> its options, and a figure
    "loading": ("--reviews 300 --repeats 1", "loopback"),
    "speed": ("--tiny --repeats 1 --cpu-time", "training_to_reference"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_benchmark_prints_a_table_and_a_line_of_json(tmp_path: Path, name: str) -> None:
    options, figure = RUNS[name]
    command, env = [sys.executable, "-m", f"benchmarks.{name}", *options.split()], environment(tmp_path)
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=280)
    *table, last = succeeded(result).stdout.splitlines()
    assert figure in json.loads(last) and any(figure in line for line in table)


def test_the_benchmark_of_a_gpu_gives_every_figure_on_a_cpu_too(tmp_path: Path) -> None:
    figures = gpu.measure(tmp_path, None, tiny=True)
    kinds, phases = ("packed", "gpu_busy_share", "warm_ms_per_step"), "start data model tokenize train save"
    names = {f"{recipe}_{kind}" for recipe in gpu.RECIPES for kind in kinds}
    names |= {f"train_py_{phase}_seconds" for phase in phases.split()}
    assert figures.keys() >= {*gpu.BARS, "float32_second_seconds", *names}
    assert figures["default_packed"] and figures["report_packed"]

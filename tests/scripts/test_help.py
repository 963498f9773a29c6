import time
from pathlib import Path
from statistics import median

import pytest

from tests.helpers import run_script, succeeded

SCRIPTS = [
    "data_loader.py",
    "train.py",
    "evaluate_model.py",
    "push_to_hub.py",
    "plot_results.py",
    "predict.py",
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_comes_within_two_seconds(tmp_path: Path, script: str) -> None:
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        result = succeeded(run_script(script, "--help", cwd=tmp_path))
        seconds.append(time.monotonic() - started)
        assert result.stdout.startswith(f"usage: {script}")
    assert median(seconds) < 2
    assert list(tmp_path.iterdir()) == []

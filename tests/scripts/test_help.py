import resource
from pathlib import Path

import pytest

from tests.helpers import ROOT, run_script, succeeded


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_help_takes_less_than_two_seconds_of_cpu_time(tmp_path: Path, script: str) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = succeeded(run_script(script, "--help", cwd=tmp_path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.stdout.startswith(f"usage: {script}")
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert list(tmp_path.iterdir()) == []

"""What run_main leaves behind: nothing."""

import logging
import os
import signal
import sys
from pathlib import Path

from tests.helpers import SMALL, assert_one_line_error, run_main, succeeded


def test_a_script_runs_in_this_process_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    def state() -> list[object]:
        own = [signal.getsignal(signal.SIGTERM), logging.getLogger().handlers[:], dict(os.environ)]
        return [*own, sys.argv, sys.stdout, Path.cwd()]

    before = state()
    arguments = ("--source", "sample", *SMALL, "--output-dir", "data")
    result = succeeded(run_main("data_loader.py", *arguments, cwd=tmp_path))
    assert (tmp_path / "data" / "train.parquet").exists()
    assert "poetry" in result.stdout and ":" in result.stderr  # the log's times
    assert_one_line_error(run_main("data_loader.py", "--heat", "5", cwd=tmp_path), "--heat", "did you mean")
    assert state() == before

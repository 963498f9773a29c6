"""A bar on a terminal, plain lines in a log."""

import pytest

from goodreads.common import progress


def test_a_log_gets_plain_lines(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level("INFO", "goodreads")
    for seconds, total in ((0, None), (10, 3000)):
        monkeypatch.setattr(progress, "SECONDS", seconds)
        score = progress.Progress("score", total, "reviews")
        score.update(1000)
        score.close()
    lines = [line.rpartition(",")[0] for line in caplog.messages]
    assert lines == ["score: 1,000 reviews"] * 2 + ["score: 1,000 of 3,000 reviews"]

"""The comparison of recipes: its statistics, and a grid that is cut off and goes on."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.recipes import two_way_bootstrap
from goodreads.model.checkpoint import load_for_training
from tests.helpers import ROOT, environment


@pytest.mark.parametrize(("gain", "real"), [(0.0, False), (0.2, True)])
def test_a_difference_counts_where_seeds_and_reviews_agree(gain: float, real: bool) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.random((6, 200)) < right for right in (0.6, 0.6 + gain))
    values = second.astype(float) - first
    values[rng.random(values.shape) < 0.5] = np.nan  # not in that seed's test split
    mean, low, high, p = two_way_bootstrap(values)
    assert mean == pytest.approx(np.nanmean(values)) and low < mean < high
    assert (p < 0.05) == (low > 0) == real


def test_a_grid_goes_on_where_it_was_and_compares_with_its_first_variant(files: Path, tmp_path: Path) -> None:
    (tmp_path / "goodreads").symlink_to(files)
    tokenizer, model = load_for_training("scratch", ["a", "b"], 16, 0, ["some words"])
    for part in (tokenizer, model):
        part.save_pretrained(tmp_path / "models/distil-mini")
    variants = [
        "max_steps=2 max_length=16",
        "max_steps=2 max_length=16 reviews=40 lr_scheduler_type=cosine",
    ]

    def grid(seeds: str) -> tuple[str, list[str]]:
        words = "-m benchmarks.recipes --setting eight --runs runs.jsonl --seeds".split()
        done = subprocess.run(
            [sys.executable, *words, seeds, "--variants", *variants], cwd=tmp_path,
            env=environment(tmp_path, GOODREADS_REAL=str(tmp_path), PYTHONPATH=str(ROOT)),
            capture_output=True, text=True, timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout, (tmp_path / "runs.jsonl").read_text().splitlines()

    _, once = grid("1")
    table, twice = grid("2")
    assert len(once) == 2 and len(twice) == 4 and twice[:2] == once
    first, second = table.splitlines()[2:]
    assert first.startswith(f"| {variants[0]} | 2 | 0.") and second.startswith(
        "| reviews=40 lr_scheduler_type=cosine | 2 | 0."
    )
    assert " to " in second.split("|")[5] and 0 < float(second.split("|")[6]) <= 1

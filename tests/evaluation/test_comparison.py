import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from goodreads.common.errors import InputError
from goodreads.evaluation import comparison
from goodreads.evaluation.comparison import COPY
from tests.evaluation.conftest import Write, make_logits, make_split


def test_a_million_reviews_are_tested_in_no_time_and_the_interval_is_that_of_theory() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(1_000_000) < 0.6
    second = first ^ (rng.random(1_000_000) < 0.02)
    started = time.perf_counter()
    found = comparison.paired_tests(first, second)
    assert time.perf_counter() - started < 2
    lost, won, p = found["mcnemar"].values()
    assert [lost, won] == [(first & ~second).sum(), (second & ~first).sum()]
    assert p == pytest.approx(2 * binom.cdf(min(lost, won), lost + won, 0.5))
    gain = found["accuracy_difference"]
    assert gain["value"] == pytest.approx(second.mean() - first.mean())
    spread = 1.96 * np.sqrt((first ^ second).mean() / 1_000_000)
    assert gain["high"] - gain["low"] == pytest.approx(2 * spread, rel=0.1)


@pytest.mark.parametrize(
    ("shift", "weights", "verdict"),
    [
        (0.0, "a", "IDENTICAL"),
        (1e-4, "a", "EQUIVALENT"),
        (0.01, "a", "DIFFERENT"),
        (0.0, "b", "DIFFERENT"),
        (0.0, None, "DIFFERENT"),  # two models of unknown weights
        (math.nan, "a", "DIFFERENT"),
        (math.inf, "a", "DIFFERENT"),
    ],
)
def test_the_verdict(tmp_path: Path, write: Write, shift: float, weights: str | None, verdict: str) -> None:
    logits = make_logits(make_split(8, 20), 1)
    if not math.isfinite(shift):
        logits[:, 7] = shift  # in both
    write("local", logits, weights=weights and "a")
    logits[3, 2] += shift
    write("hub", logits, weights=weights)
    pairs = comparison.compare(tmp_path, COPY)
    assert pairs[0]["verdict"] == verdict
    assert ("mcnemar" in pairs[0]) is (weights != "a")
    assert (pairs[0]["max_abs_logit_difference"] is None) is not math.isfinite(shift)
    comparison.write(tmp_path, COPY, pairs)
    assert json.loads((tmp_path / "comparison.json").read_text()) == pairs[0]


def test_several_evaluations_are_tested_in_pairs_with_holms_correction(tmp_path: Path, write: Write) -> None:
    names = ["bad", "good", "better"]
    for i, name in enumerate(names):
        write(name, seed=i, signal=i, weights=str(i) * 64)
    pairs = comparison.compare(tmp_path, names)
    assert [pair["names"] for pair in pairs] == [["bad", "good"], ["bad", "better"], ["good", "better"]]
    raw = sorted(pair["mcnemar"]["p_value"] for pair in pairs)
    holm = sorted(pair["mcnemar"]["p_holm"] for pair in pairs)
    assert holm == pytest.approx(np.maximum.accumulate([min(1, (3 - i) * p) for i, p in enumerate(raw)]))
    assert pairs[1]["accuracy_difference"]["value"] > 0.2
    text = comparison.write(tmp_path, names, pairs)
    assert text.splitlines()[0] == "| Metric | bad | good | better |"
    assert (tmp_path / "comparison_bad_good_better.md").read_text() == text + "\n"
    assert json.loads((tmp_path / "comparison_bad_good_better.json").read_text())["pairs"] == pairs
    assert not (tmp_path / "comparison.json").exists()


def test_the_table_names_model_repository_commit_data_and_date(tmp_path: Path, write: Write) -> None:
    write("local", model={"source": "/me/secret/model"})
    write("hub", model={"source": "you/genres", "commit": "fedcba9876543210"})
    text = comparison.write(tmp_path, COPY, comparison.compare(tmp_path, COPY))
    assert text.startswith("| Metric | Local | Hub | Diff |\n|---|---|---|---|\n| Accuracy | 0.")
    assert (
        "\n- Local: model (weights aaaaaaaa)\n- Hub: you/genres at commit fedcba9876 (weights aaaaaaaa)\n"
        in text
    )
    assert "generated test reviews" in text and "evaluated 2026-01-02 by code at commit 0123456789" in text
    assert (tmp_path / "comparison.md").read_text() == (tmp_path / "comparison_local_hub.md").read_text()


def test_predictions_of_another_evaluation_are_refused(tmp_path: Path, write: Write) -> None:
    write("local")
    write("hub", seed=2)
    (tmp_path / "predictions_local.parquet").replace(tmp_path / "predictions_hub.parquet")
    for name in ("hub", "local"):  # another's, and missing
        with pytest.raises(InputError, match=rf"predictions_{name}.parquet is missing, or of another"):
            comparison.compare(tmp_path, [name, "hub"])

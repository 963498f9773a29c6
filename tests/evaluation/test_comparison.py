import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from goodreads.common.errors import InputError
from goodreads.evaluation import comparison
from tests.evaluation.conftest import Write, make_logits, make_split

OTHER = "b" * 64


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_mcnemar_is_the_two_sided_binomial_test(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column) for column in zip(*pairs))
    found = comparison.paired_tests(first, second, 1)["mcnemar"]
    n = found["only_first_right"] + found["only_second_right"]
    tail = binom.cdf(min(found["only_first_right"], found["only_second_right"]), n, 0.5)
    assert found["p_value"] == pytest.approx(min(1.0, 2 * tail))


def test_a_million_reviews_are_tested_in_no_time_and_the_interval_is_that_of_theory() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(1_000_000) < 0.6
    second = first ^ (rng.random(1_000_000) < 0.02)
    started = time.perf_counter()
    found = comparison.paired_tests(first, second, seed=1)
    assert time.perf_counter() - started < 2
    assert found == comparison.paired_tests(first, second, seed=1)
    gain = found["accuracy_difference"]
    assert gain["value"] == pytest.approx(second.mean() - first.mean())
    spread = 1.96 * np.sqrt((first ^ second).mean() / 1_000_000)
    assert gain["high"] - gain["low"] == pytest.approx(2 * spread, rel=0.1)


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, "IDENTICAL"), (1e-4, "EQUIVALENT"), (0.01, "DIFFERENT"), (9.0, "DIFFERENT")]
)
def test_the_verdict_on_equal_weights(tmp_path: Path, write: Write, shift: float, verdict: str) -> None:
    logits = make_logits(make_split(8, 20), 1)
    write("local", logits)
    moved = logits.copy()
    moved[3, 2] += shift
    write("hub", moved)
    found = comparison.compare(tmp_path, "local", "hub", seed=1)
    assert found["verdict"] == verdict
    assert "mcnemar" not in found


@pytest.mark.parametrize(
    ("where", "value", "column"), [("hub", math.nan, 0), ("both", math.nan, 7), ("both", math.inf, 1)]
)
def test_a_logit_that_is_not_finite_is_never_equal(
    tmp_path: Path, write: Write, where: str, value: float, column: int
) -> None:
    logits = make_logits(make_split(8, 20), 1)
    damaged = logits.copy()
    damaged[:, column] = value
    write("local", damaged if where == "both" else logits)
    write("hub", damaged)
    found = comparison.compare(tmp_path, "local", "hub", seed=1)
    assert (found["verdict"], found["max_abs_logit_difference"]) == ("DIFFERENT", None)
    comparison.write(tmp_path, [found])
    assert json.loads((tmp_path / "comparison.json").read_text()) == found


def test_unknown_weights_are_not_the_same(tmp_path: Path, write: Write) -> None:
    for name in ("local", "hub"):
        write(name, weights=None)
    assert comparison.compare(tmp_path, "local", "hub", seed=1)["verdict"] == "DIFFERENT"


def test_several_evaluations_are_tested_in_pairs_with_holms_correction(tmp_path: Path, write: Write) -> None:
    for i, name in enumerate(("bad", "good", "better")):
        write(name, seed=i, signal=i, weights=str(i) * 64)
    pairs = comparison.compare_all(tmp_path, ["bad", "good", "better"], seed=1)
    assert [pair["names"] for pair in pairs] == [["bad", "good"], ["bad", "better"], ["good", "better"]]
    raw = sorted(pair["mcnemar"]["p_value"] for pair in pairs)
    holm = sorted(pair["mcnemar"]["p_holm"] for pair in pairs)
    assert holm[0] == pytest.approx(min(1, 3 * raw[0]))
    assert holm == sorted(holm)
    assert all(h >= p for h, p in zip(holm, raw))
    assert pairs[1]["accuracy_difference"]["value"] > 0.2
    text = comparison.write(tmp_path, pairs)
    assert text.splitlines()[0] == "| Metric | bad | good | better |"
    assert (tmp_path / "comparison_bad_good_better.md").read_text() == text + "\n"
    assert json.loads((tmp_path / "comparison_bad_good_better.json").read_text())["pairs"] == pairs
    assert not (tmp_path / "comparison.json").exists()


def test_the_table_names_model_repository_commit_data_and_date(tmp_path: Path, write: Write) -> None:
    write("local")
    write("hub", model={"source": "you/genres", "commit": "fedcba9876543210"})
    text = comparison.write(tmp_path, comparison.compare_all(tmp_path, ["local", "hub"], seed=1))
    assert text.splitlines()[0] == "| Metric | Local | Hub | Diff |"
    for part in (
        "Local: model (weights aaaaaaaa)",
        "you/genres at commit fedcba9876",
        "generated test reviews",
    ):
        assert part in text
    assert "2026-01-02 by code at commit 0123456789" in text
    assert (tmp_path / "comparison.md").read_text() == (tmp_path / "comparison_local_hub.md").read_text()


def test_predictions_of_another_evaluation_are_refused(tmp_path: Path, write: Write) -> None:
    write("local")
    write("hub", seed=2)
    (tmp_path / "predictions_local.parquet").replace(tmp_path / "predictions_hub.parquet")
    for name in ("hub", "local"):  # another's, and missing
        with pytest.raises(InputError, match=rf"predictions_{name}.parquet is missing, or of another"):
            comparison.compare(tmp_path, name, "hub", seed=1)

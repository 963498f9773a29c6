"""plot_results.py as a user runs it, on results of a real run and on made-up ones."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers import assert_one_line_error, run_main, succeeded

STEMS = ("per_class_metrics", "overall_metrics", "confusion_matrix", "reliability")


@pytest.fixture
def results(tmp_path: Path, trained: Path) -> Path:
    """Results of a local model."""
    return Path(shutil.copytree(trained / "results", tmp_path / "results"))


def copy(results: Path, name: str, **changes: object) -> None:
    """Another evaluation of the local one's reviews."""
    document = json.loads((results / "eval_results_local.json").read_text()) | changes
    (results / f"eval_results_{name}.json").write_text(json.dumps(document))
    shutil.copy(results / "predictions_local.parquet", results / f"predictions_{name}.parquet")


def test_every_picture_and_the_table_are_drawn(tmp_path: Path, results: Path) -> None:
    copy(results, "hub")
    result = succeeded(run_main("plot_results.py", "--format", "svg,png", cwd=tmp_path))
    document = json.loads(result.stdout.splitlines()[-1])
    assert document["verdict"] == "IDENTICAL"
    stems = [*(f"{stem}_local" for stem in STEMS), *(f"{stem}_hub" for stem in STEMS[2:])]
    stems += ["training_loss", "comparison_local_hub"]
    assert sorted(document["drawn"]) == sorted(f"{stem}.{kind}" for stem in stems for kind in ("png", "svg"))
    assert all((results / f"{stem}.png").read_bytes().startswith(b"\x89PNG") for stem in stems)
    table = (results / "comparison.md").read_text()
    assert table in result.stdout
    assert table.startswith("| Metric | Local | Hub | Diff |\n|---|---|---|---|\n| Accuracy | 0.")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ("", 1),
        ("--compare hub,local", 1),
        ("--compare local,other", 0),
        ("--compare local,hub,other", 0),
        ("--compare local,other --expect-same", 1),
    ],
)
def test_the_exit_status_is_1_for_different_copies_only(
    tmp_path: Path, results: Path, arguments: str, status: int
) -> None:
    for name in ("hub", "other"):
        copy(results, name, model={"source": "other", "weights_sha256": name})
    result = run_main("plot_results.py", "--no-plots", *arguments.split(), cwd=tmp_path)
    assert '"drawn": []' in result.stdout
    if status:
        assert_one_line_error(result, "are DIFFERENT: the weights are not the same", code=1)
    else:
        succeeded(result)
        assert (results / f"comparison_{arguments.split()[1].replace(',', '_')}.json").exists()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ("--compare local,local", "name two or more evaluations"),
        (
            "--compare local,none",
            "results/eval_results_none.json is missing; make it with: python evaluate_m",
        ),
        ("--compare local,other", "local and other are not of the same reviews"),
        ("--format png", "training_log.json is not a log of this version's train.py; move it away"),
        ("--format png,gif", "'gif' is none of png, pdf, svg"),
        (
            "--results-dir a;b",
            "python evaluate_model.py --model ... --name local --results-dir 'a;b' --force",
        ),
    ],
)
def test_bad_options_get_one_line(tmp_path: Path, results: Path, arguments: str, fragment: str) -> None:
    (results / "training_log.json").write_text('{"epochs": []}')
    copy(results, "other", labels=["poetry", "romance"])
    assert_one_line_error(run_main("plot_results.py", *arguments.split(), cwd=tmp_path), fragment)

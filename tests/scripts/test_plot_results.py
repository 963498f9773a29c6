"""plot_results.py as a user runs it, on results of a real run and on made-up ones."""

import json
import shutil
from pathlib import Path

import pytest

from tests.helpers import assert_one_line_error, run_main, succeeded, temporary_files

STEMS = ("confusion_matrix", "per_class_metrics", "overall_metrics", "reliability")


@pytest.fixture
def results(tmp_path: Path, trained: Path) -> Path:
    """Results of a local model and of what looks like its Hub copy."""
    folder = Path(shutil.copytree(trained / "results", tmp_path / "results"))
    hub = json.loads((folder / "eval_results_local.json").read_text())
    hub["metrics"]["accuracy"]["value"] += 0.0125
    (folder / "eval_results_hub.json").write_text(json.dumps(hub))
    shutil.copy(folder / "predictions_local.parquet", folder / "predictions_hub.parquet")
    return folder


def test_every_picture_and_the_table_are_drawn(tmp_path: Path, results: Path) -> None:
    result = succeeded(run_main("plot_results.py", cwd=tmp_path))
    document = json.loads(result.stdout.splitlines()[-1])
    pictures = [f"{stem}_local.png" for stem in STEMS]
    pictures += ["confusion_matrix_hub.png", "reliability_hub.png"]
    assert document == {
        "drawn": ["training_loss.png", *pictures, "comparison_local_hub.png"],
        "verdict": "IDENTICAL",
    }
    assert all((results / name).read_bytes().startswith(b"\x89PNG") for name in document["drawn"])
    table = (results / "comparison.md").read_text()
    assert table in result.stdout
    assert table.splitlines()[0] == "| Metric | Local | Hub | Diff |"
    assert table.splitlines()[2].endswith("| 0.0125 |")
    assert not temporary_files(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((), 1),
        (("--compare", "hub,local"), 1),
        (("--compare", "local,other"), 0),
        (("--compare", "local,hub,other"), 0),
        (("--compare", "local,other", "--expect-same"), 1),
    ],
)
def test_the_exit_status_is_1_for_different_copies_only(
    tmp_path: Path, results: Path, arguments: tuple[str, ...], status: int
) -> None:
    for name in ("hub", "other"):
        document = json.loads((results / "eval_results_local.json").read_text())
        document["model"]["weights_sha256"] = name
        (results / f"eval_results_{name}.json").write_text(json.dumps(document))
        shutil.copy(results / "predictions_local.parquet", results / f"predictions_{name}.parquet")
    result = run_main("plot_results.py", "--no-plots", *arguments, cwd=tmp_path)
    assert result.returncode == status, result.stderr
    assert '"drawn": []' in result.stdout
    if status:
        assert_one_line_error(result, "are DIFFERENT: the weights are not the same", code=1)
    else:
        assert (results / f"comparison_{arguments[1].replace(',', '_')}.json").exists()
        assert not (results / "comparison.json").exists()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--compare", "local"), "name two or more evaluations"),
        (("--compare", "local,local"), "name two or more evaluations"),
        (
            ("--compare", "local,none"),
            "results/eval_results_none.json is missing; make it with: python evaluate_model.py",
        ),
        (("--format", "png,gif"), "'gif' is none of png, pdf, svg"),
        (("--results-dir", "a folder"), "python evaluate_model.py --results-dir 'a folder'"),
    ],
)
def test_bad_options_get_one_line(
    tmp_path: Path, results: Path, arguments: tuple[str, ...], fragment: str
) -> None:
    assert_one_line_error(run_main("plot_results.py", *arguments, cwd=tmp_path), fragment)


def test_evaluations_of_other_reviews_are_not_compared(tmp_path: Path, results: Path) -> None:
    document = json.loads((results / "eval_results_local.json").read_text())
    document["labels"] = document["labels"][::-1]
    (results / "eval_results_other.json").write_text(json.dumps(document))
    shutil.copy(results / "predictions_local.parquet", results / "predictions_other.parquet")
    result = run_main("plot_results.py", "--compare", "local,other", cwd=tmp_path)
    assert_one_line_error(result, "local and other are not of the same reviews")


def test_what_is_missing_or_damaged_is_said(tmp_path: Path, results: Path) -> None:
    (results / "training_log.json").unlink()
    for path in results.glob("*_hub.*"):
        path.unlink()
    result = succeeded(run_main("plot_results.py", "--format", "svg", cwd=tmp_path))
    assert "training_loss is not drawn" in result.stderr
    assert (results / "overall_metrics_local.svg").exists()
    (results / "training_log.json").write_text('{"epochs": []}')
    assert_one_line_error(
        run_main("plot_results.py", cwd=tmp_path), "training_log.json is not a log of train.py"
    )
    (results / "eval_results_local.json").write_text('{"format": 1,')
    assert_one_line_error(run_main("plot_results.py", cwd=tmp_path), "eval_results_local.json is damaged")

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from goodreads.common.errors import InputError
from goodreads.evaluation import results
from tests.evaluation.conftest import Write


def test_an_evaluation_is_known_by_its_files_name(tmp_path: Path, write: Write) -> None:
    write("local", seed=1)
    shutil.copy(tmp_path / "eval_results_local.json", tmp_path / "eval_results_old.json")
    write("local", seed=2)
    found = results.read_all(tmp_path)
    assert list(found) == ["local", "old"]
    assert found["old"]["name"] == "old"
    assert found["old"]["metrics"] != found["local"]["metrics"]


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"labels": None},
        {"metrics": {}},
        {"metrics": {"accuracy": {"value": float("nan"), "low": 0, "high": 1}}},
        {"model": "model"},
    ],
    ids=str,
)
def test_a_file_that_is_no_evaluation_gets_one_line(
    tmp_path: Path, write: Write, changes: dict[str, Any]
) -> None:
    write("other")
    path = tmp_path / "eval_results_other.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    message = r"eval_results_other.json is not an evaluation of format 1; .*--name other --results-dir /"
    with pytest.raises(InputError, match=message):
        results.read_all(tmp_path)


def test_an_earlier_version_of_the_file_is_read(tmp_path: Path, write: Write) -> None:
    write("local")
    path = tmp_path / "eval_results_local.json"
    new = {"calibration", "subsets", "git_commit"}
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k not in new}))
    assert "metrics" in results.read(tmp_path, "local")


def test_results_of_another_model_are_replaced_only_when_asked(tmp_path: Path, write: Write) -> None:
    other = {"source": "other", "weights_sha256": "b" * 64}
    results.check_replaceable(tmp_path, "local", other, force=False)
    results.check_replaceable(tmp_path, "local", write("local")["model"], force=False)
    with pytest.raises(InputError, match=r"is of another model \(model, weights aaaaaaaa\); .*--force"):
        results.check_replaceable(tmp_path, "local", other, force=False)
    (tmp_path / "eval_results_local.json").write_text("{")
    with pytest.raises(InputError, match="--force"):
        results.check_replaceable(tmp_path, "local", other, force=False)
    results.check_replaceable(tmp_path, "local", other, force=True)


def test_the_files_of_an_evaluation_appear_together_or_not_at_all(
    tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    before = write("local", seed=1)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(results, "write_json", fail)
    with pytest.raises(InputError, match="No space left on device"):
        write("local", seed=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files
    assert results.read_predictions(tmp_path, before).num_rows == 160

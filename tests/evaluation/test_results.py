import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from goodreads.common.errors import InputError
from goodreads.evaluation import results
from tests.evaluation.conftest import Write, make_split


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


def test_the_most_confident_mistakes_of_each_pair_come_first_and_are_cut_short() -> None:
    split = make_split(2, 10)
    split = replace(split, texts=[f"{'word ' * i}<b>*{i}*" for i in range(0, 2000, 100)])
    logits = np.zeros((20, 2), dtype=np.float32)
    logits[np.arange(20), split.labels] = 1
    for row, strength in ((0, 2), (1, 5), (2, 3), (3, 4), (10, 9)):
        logits[row, 1 - split.labels[row]] = strength
    text = results.errors_markdown(split, logits)
    assert "Not for publication" in text
    heads = [line for line in text.splitlines() if line.startswith("## ")]
    assert heads == [
        "## Children taken for Comics & Graphic: 4 of 10",
        "## Comics & Graphic taken for Children: 1 of 10",
    ]
    shown = [line.rpartition("review ")[2] for line in text.splitlines() if "; review" in line]
    assert shown == ["r1", "r3", "r2", "r10"]
    quoted = [line for line in text.splitlines() if line.startswith("  > ")]
    assert max(map(len, quoted)) <= 300 + len("  > ")
    assert "<b>" not in text.replace("\\<b\\>", "")


def test_no_mistakes_and_empty_texts_are_fine() -> None:
    split = replace(make_split(2, 2), texts=["", " ", "\n", "a"])
    right = np.eye(2, dtype=np.float32)[split.labels]
    assert "0 of 4 reviews" in results.errors_markdown(split, right)
    assert "(empty)" in results.errors_markdown(split, right[::-1])

import shutil
from dataclasses import replace
from pathlib import Path

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
    assert {name: result["name"] for name, result in found.items()} == {"local": "local", "old": "old"}
    assert found["old"]["metrics"] != found["local"]["metrics"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2}', r"eval_results_other.json is not an evaluation of format 1; .*--name other --res"),
        ('{"format": 1,', r"eval_results_other.json is damaged .*--name other --results-dir /"),
    ],
)
def test_a_file_that_is_no_evaluation_gets_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "eval_results_other.json").write_text(content)
    with pytest.raises(InputError, match=message):
        results.read_all(tmp_path)


def test_results_of_another_model_are_replaced_only_when_asked(tmp_path: Path, write: Write) -> None:
    other = {"source": "other", "weights_sha256": "b" * 64}
    results.check_replaceable(tmp_path, "local", write("local")["model"], force=False)
    with pytest.raises(InputError, match=r"is of another model \(model, weights aaaaaaaa\); .*--force"):
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
    split = replace(make_split(2, 10), texts=["", *(f"{'word ' * i}<b>*{i}*" for i in range(0, 1900, 100))])
    logits = np.eye(2, dtype=np.float32)[split.labels]
    for row, strength in ((0, 2), (1, 5), (2, 3), (3, 4), (10, 9)):
        logits[row, 1 - split.labels[row]] = strength
    lines = results.errors_markdown(split, logits).splitlines()
    assert "Not for publication" in lines[2] and "5 of 20 reviews" in lines[4]
    assert [line for line in lines if line.startswith("## ")] == [
        "## Children taken for Comics & Graphic: 4",
        "## Comics & Graphic taken for Children: 1",
    ]
    shown = [line.partition("review ")[2] for line in lines if line.startswith("- ")]
    assert [line.partition(":")[0] for line in shown] == ["r1", "r3", "r2", "r10"]
    assert shown[0] == "r1: \\<b\\>\\*0\\*"
    assert 250 < max(map(len, shown)) <= 300 + len("r10: ")

"""predict.py as a user runs it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.helpers import assert_one_line_error, run_main, succeeded


@pytest.fixture
def place(tmp_path: Path, trained: Path) -> Path:
    shutil.copytree(trained / "model", tmp_path / "model")
    return tmp_path


def predict(place: Path, *arguments: object, stdin: str = "") -> list[dict[str, Any]]:
    result = succeeded(run_main("predict.py", *arguments, cwd=place, stdin=stdin))
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_predictions_are_those_of_the_evaluation(place: Path, trained: Path, small_data: Path) -> None:
    expected = pq.read_table(trained / "results/predictions_local.parquet").to_pylist()
    test = pq.read_table(small_data / "test.parquet").to_pylist()
    labels = json.loads((trained / "results/eval_results_local.json").read_text())["labels"]
    text = "".join(json.dumps({"review_id": r["review_id"], "review_text": r["text"]}) + "\n" for r in test)
    found = predict(place, stdin=text)
    assert [line["review_id"] for line in found] == [row["review_id"] for row in expected]
    assert [line["genre"] for line in found] == [labels[row["prediction"]] for row in expected]
    for line in found:
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert list(line["probabilities"].values()) == sorted(line["probabilities"].values(), reverse=True)


def test_a_review_comes_as_argument_from_a_file_or_from_stdin(place: Path) -> None:
    texts = ["a détective novel", "", "poems { }"]
    expected = predict(place, *texts, "--top", 2)
    assert [len(line["probabilities"]) for line in expected] == [2, 2, 2]
    (place / "reviews.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode())
    assert predict(place, "--file", "reviews.txt", "--top", 2) == expected
    assert predict(place, "--top", 2, stdin="\n".join(texts)) == expected
    assert len(predict(place, "x" * 100_000)) == 1


def test_labels_are_named_as_in_evaluation(place: Path) -> None:
    path = place / "model/config.json"
    path.write_text(path.read_text().replace('"children"', '"Children"').replace('"poetry"', '"LABEL_5"'))
    assert "LABEL_5" in predict(place, "x")[0]["probabilities"]
    (line,) = predict(place, "x", "--label-map", "LABEL_5=poetry")
    assert {"children", "poetry"} < set(line["probabilities"])


@pytest.mark.parametrize(
    ("arguments", "stdin", "fragment"),
    [
        ("", "", "stdin holds no review; give one as argument"),
        ("--file nothing", "", "No such file or directory: 'nothing'"),
        ("--file latin1.txt", "", "latin1.txt, line 2: 'utf-8'"),
        ("x --file y", "", "not both"),
        ("", '{"review_text": 5}\n', "stdin, line 1: no review_text"),
        ("", "fine\n{broken\n", "stdin, line 2: "),
        ("x --model nothing", "", "--model nothing: no such folder"),
        ("x --top 0", "", "not a whole number of at least 1"),
        ("x --label-map A=poetry", "", "no label 'A'"),
    ],
)
def test_bad_input_gets_one_line(place: Path, arguments: str, stdin: str, fragment: str) -> None:
    (place / "latin1.txt").write_bytes(b"fine\nd\xe9tective\n")
    assert_one_line_error(run_main("predict.py", *arguments.split(), cwd=place, stdin=stdin), fragment)

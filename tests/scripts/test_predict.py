"""predict.py as a user runs it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.helpers import Result, assert_one_line_error, run_main, succeeded


def lines(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in succeeded(result).stdout.splitlines()]


@pytest.fixture
def place(tmp_path: Path, trained: Path) -> Path:
    (tmp_path / "model").symlink_to(trained / "model")
    return tmp_path


def test_predictions_are_those_of_the_evaluation(place: Path, trained: Path, small_data: Path) -> None:
    expected = pq.read_table(trained / "results/predictions_local.parquet").to_pylist()
    test = pq.read_table(small_data / "test.parquet").to_pylist()
    labels = json.loads((trained / "results/eval_results_local.json").read_text())["labels"]
    text = "".join(json.dumps({"review_id": r["review_id"], "review_text": r["text"]}) + "\n" for r in test)
    found = lines(run_main("predict.py", cwd=place, stdin=text))
    assert [line["review_id"] for line in found] == [row["review_id"] for row in expected]
    assert [line["genre"] for line in found] == [labels[row["prediction"]] for row in expected]
    for line in found:
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        assert list(line["probabilities"].values()) == sorted(line["probabilities"].values(), reverse=True)


def test_a_review_comes_as_argument_from_a_file_or_from_stdin(place: Path) -> None:
    texts = ["a détective novel", "", "poems { }"]
    expected = lines(run_main("predict.py", *texts, "--top", 2, cwd=place))
    assert [len(line["probabilities"]) for line in expected] == [2, 2, 2]
    (place / "reviews.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode())
    assert lines(run_main("predict.py", "--file", "reviews.txt", "--top", 2, cwd=place)) == expected
    assert lines(run_main("predict.py", "--top", 2, cwd=place, stdin="\n".join(texts))) == expected
    assert len(lines(run_main("predict.py", "x" * 100_000, cwd=place))) == 1


def test_labels_are_named_as_in_evaluation(tmp_path: Path, trained: Path) -> None:
    model = Path(shutil.copytree(trained / "model", tmp_path / "model"))
    config = json.loads((model / "config.json").read_text())
    names = ["Children", "Comics & Graphic", *(f"LABEL_{i}" for i in range(2, 8))]
    config |= {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    (model / "config.json").write_text(json.dumps(config))
    (line,) = lines(run_main("predict.py", "x", "--label-map", "LABEL_5=poetry", cwd=tmp_path))
    assert {"children", "comics_graphic", "LABEL_2", "poetry"} < set(line["probabilities"])


@pytest.mark.parametrize(
    ("arguments", "stdin", "fragment"),
    [
        ((), "", "stdin holds no review; give one as argument"),
        (("--file", "nothing"), "", "No such file or directory: 'nothing'"),
        (("x", "--file", "y"), "", "not both"),
        ((), '{"review_id": "1"}\n', "stdin, line 1: no review_text"),
        ((), '{"review_text": 5}\n', "stdin, line 1: no review_text"),
        ((), "fine\n{broken\n", "stdin, line 2: "),
        (("x", "--model", "nothing"), "", "--model nothing: no such folder"),
        (("x", "--top", "0"), "", "not a whole number of at least 1"),
        (("x", "--label-map", "A=poetry"), "", "no label 'A'"),
    ],
)
def test_bad_input_gets_one_line(place: Path, arguments: tuple[str, ...], stdin: str, fragment: str) -> None:
    assert_one_line_error(run_main("predict.py", *arguments, cwd=place, stdin=stdin), fragment)


def test_a_file_that_is_not_utf_8_gets_one_line(place: Path) -> None:
    (place / "latin1.txt").write_bytes(b"fine\nd\xe9tective\n")
    assert_one_line_error(
        run_main("predict.py", "--file", "latin1.txt", cwd=place), "latin1.txt, line 2: 'utf-8'"
    )

from dataclasses import replace

import numpy as np

from goodreads.evaluation.errors import errors_markdown
from tests.evaluation.conftest import make_split


def test_the_most_confident_mistakes_of_each_pair_come_first_and_are_cut_short() -> None:
    split = make_split(2, 10)
    split = replace(split, texts=[f"{'word ' * i}<b>*{i}*" for i in range(0, 2000, 100)])
    logits = np.zeros((20, 2), dtype=np.float32)
    logits[np.arange(20), split.labels] = 1
    for row, strength in ((0, 2), (1, 5), (2, 3), (3, 4), (10, 9)):
        logits[row, 1 - split.labels[row]] = strength
    text = errors_markdown(split, logits)
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
    assert "0 of 4 reviews" in errors_markdown(split, right)
    assert "(empty)" in errors_markdown(split, right[::-1])

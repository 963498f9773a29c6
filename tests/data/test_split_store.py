import hashlib
import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodreads.common.errors import InputError
from goodreads.data.genres import GENRES, SAMPLING_ORDER
from goodreads.data.sampling import Parameters
from goodreads.data.split_store import Split, carve, content_sha256, read_manifest, read_split, stands_in
from tests.data.reviews import flip_a_byte, manifest_of, write

ODD_PARAMETERS = ({"source": 3}, {"seed": "42"}, {"head": -1}, {"new": 1}, {"genres": [1, 2]}, {"genres": 0})


def test_a_split_is_read_back_with_its_labels_by_name(small_data: Path) -> None:
    split = read_split(small_data, "test")
    assert len(split) == 160 == len(split.texts) == len(split.labels) == len(split.book_ids)
    assert split.label_names == sorted(GENRES)
    assert [split.label_names[label] for label in split.labels[::20]] == list(SAMPLING_ORDER)
    assert all(book.isdigit() for book in split.book_ids)


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("train.parquet", flip_a_byte, "is not the file its manifest describes"),  # the other split's too
        ("test.parquet", write(""), "is not the file its manifest describes"),
        ("test.parquet", Path.unlink, "is missing; rebuild it with: python data_loader.py --output-dir "),
        ("manifest.json", write('{"format": 2}'), "is no manifest of format 1"),
        ("manifest.json", Path.unlink, "is missing; make it with: python data_loader.py"),
    ],
)
def test_a_changed_data_folder_is_refused(
    tmp_path: Path, small_data: Path, file: str, damage: Callable[[Path], Any], said: str
) -> None:
    data = shutil.copytree(small_data, tmp_path / "data")
    damage(data / file)
    with pytest.raises(InputError, match=f"{file} {said}") as error:
        read_split(data, "test")
    if "rebuild" in str(error.value):  # with the options that made it
        assert "--source sample --head 200 --per-genre 60 --train-per-genre 40" in str(error.value)


def test_the_train_split_may_be_missing_where_only_the_test_split_is_read(
    tmp_path: Path, small_data: Path
) -> None:
    data = shutil.copytree(small_data, tmp_path / "data")
    (data / "train.parquet").unlink()  # an image holds the test split alone
    assert read_split(data, "test") == read_split(small_data, "test")


@pytest.mark.parametrize(
    "changes",
    [
        *({key: None} for key in ("files", "labels", "parameters", "read", "report", "splits")),
        *({key: 3} for key in ("files", "parameters", "splits")),
        {"splits": {"train": {"content_sha256": "", "genres": {}}, "test": {"genres": {}}}},
        *({"parameters": Parameters().as_json() | odd} for odd in ODD_PARAMETERS),
        {"files": {"train/../../../etc/x": {}}},
    ],
)
def test_a_damaged_manifest_is_one_error(tmp_path: Path, small_data: Path, changes: dict[str, Any]) -> None:
    changed = manifest_of(small_data) | changes
    manifest = {key: value for key, value in changed.items() if value is not None}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"/manifest.json "):
        read_split(tmp_path, "test")


def test_a_manifest_of_an_older_version_is_read(tmp_path: Path, small_data: Path) -> None:
    manifest = manifest_of(small_data) | {"versions": {}, "created": "2026-01-02"}
    for key in ("max_bad_lines", "test_split"):
        del manifest["parameters"][key]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(tmp_path) == manifest


@given(st.lists(st.integers(0, 2), min_size=1), st.integers(1, 4))
def test_carving_takes_the_last_reviews_of_each_genre_and_loses_none(labels: list[int], n: int) -> None:
    ids = [f"r{i}" for i in range(len(labels))]
    split = Split(ids, [f"book of {i}" for i in ids], [f"text of {i}" for i in ids], labels, ["a", "b", "c"])
    if any(labels.count(label) <= n for label in range(3)):
        with pytest.raises(InputError, match=f"--validation-per-genre {n} leaves [abc] no training reviews"):
            carve(split, n)
        return
    left, taken = carve(split, n)
    last = [[i for i, value in zip(ids, labels, strict=True) if value == label][-n:] for label in range(3)]
    for part, expected in ((taken, {*chain(*last)}), (left, {*ids}.difference(*last))):
        assert part.review_ids == [i for i in ids if i in expected]
        assert part.texts == [f"text of {i}" for i in part.review_ids]
        assert part.book_ids == [f"book of {i}" for i in part.review_ids]
        assert part.labels == [labels[ids.index(i)] for i in part.review_ids]


def test_the_content_hash_changes_with_any_field_and_with_the_order() -> None:
    rows = [("r1", 0, "a"), ("r2", 1, "b\t\n")]
    variants = [
        rows, rows[::-1], rows[:1], [("r3", 0, "a"), rows[1]], [("r1", 1, "a"), rows[1]],
        [("r1", 0, "a "), rows[1]], [("r1", 0, "b\t\n"), ("r2", 1, "a")],
    ]  # fmt: skip
    hashes = [content_sha256(*zip(*variant, strict=True)) for variant in variants]
    assert len(set(hashes)) == len(variants)
    lines = "".join(f"{i}\t{label}\t{hashlib.sha256(text.encode()).hexdigest()}\n" for i, label, text in rows)
    assert hashes[0] == hashlib.sha256(lines.encode()).hexdigest()


def test_a_review_stands_in_a_split_by_its_id_or_its_exact_text_unless_blank() -> None:
    found = stands_in(["1", "2", "3"], ["the same words", " \n", ""])
    rows = [("1", "x"), ("4", "the same words"), ("5", "the same words "), ("6", " \n"), ("7", "")]
    assert [found({"review_id": i, "text": text}) for i, text in rows] == [True, True, False, False, False]

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
from goodreads.data.split_store import (
    Split,
    carve,
    content_sha256,
    duplicates_report,
    leaked_rows,
    read_manifest,
    read_split,
)
from tests.data.reviews import cut_a_byte, flip_a_byte, manifest_of, write


def test_a_split_is_read_back_with_its_labels_by_name(small_data: Path) -> None:
    split = read_split(small_data, "test")
    assert len(split) == 160 == len(split.texts) == len(split.labels) == len(split.book_ids)
    assert split.label_names == sorted(GENRES)
    assert [split.label_names[label] for label in split.labels[::20]] == list(SAMPLING_ORDER)
    assert all(book.isdigit() for book in split.book_ids)


def other_format(path: Path) -> None:
    write('{"format": 2}')(path.with_name("manifest.json"))


@pytest.mark.parametrize("name", ["train.parquet", "test.parquet"])
@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (flip_a_byte, "is not the file its manifest describes"),
        (cut_a_byte, "is not the file its manifest describes"),
        (Path.unlink, "is missing; rebuild it with: python data_loader.py --output-dir "),
        (other_format, "is no manifest of format 1"),
        (lambda path: path.with_name("manifest.json").unlink(), "manifest.json is missing"),
    ],
    ids=["flipped byte", "cut", "gone", "other format", "no manifest"],
)
def test_a_changed_data_folder_is_refused_whichever_split_is_read(
    tmp_path: Path, small_data: Path, name: str, damage: Callable[[Path], None], fragment: str
) -> None:
    data = shutil.copytree(small_data, tmp_path / "data")
    damage(data / name)
    with pytest.raises(InputError, match=fragment) as error:
        # an image holds the test split alone
        read_split(data, Path(name).stem if damage is Path.unlink else "test")
    if "rebuild" in str(error.value):  # with the options that made it
        assert "--source sample --head 200 --per-genre 60 --train-per-genre 40" in str(error.value)


def change(*path: str, value: Any = None) -> Callable[[dict[str, Any]], None]:
    """A function that sets (or, without a value, deletes) a key of a manifest."""

    def changed(manifest: dict[str, Any]) -> None:
        for key in path[:-1]:
            manifest = manifest[key]
        manifest.pop(path[-1], None)
        if value is not None:
            manifest[path[-1]] = value

    return changed


@pytest.mark.parametrize(
    "damage",
    [
        *(change(key) for key in ("files", "labels", "parameters", "read", "report", "splits")),
        *(change(key, value=3) for key in ("files", "parameters", "splits")),
        change("splits", "test", "content_sha256"),
        change("splits", "test", value=7),
        change("parameters", "seed", value="x"),
        change("files", "train/../../../etc/x", value={}),
    ],
)
def test_a_damaged_manifest_is_one_error(
    tmp_path: Path, small_data: Path, damage: Callable[[dict[str, Any]], None]
) -> None:
    manifest = manifest_of(small_data)
    damage(manifest)
    shutil.copytree(small_data, tmp_path / "data")
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"data/manifest.json|is not the file its manifest describes"):
        read_split(tmp_path / "data", "test")


def test_a_manifest_of_an_older_version_is_read(tmp_path: Path, small_data: Path) -> None:
    manifest = manifest_of(small_data)
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
    assert sorted(taken.review_ids) == sorted(chain(*last))
    assert taken.review_ids == [i for i in ids if i in taken.review_ids]
    assert left.review_ids == [i for i in ids if i not in taken.review_ids]
    for part in (left, taken):
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


def rows_from(*rows: tuple[str, str, str, str]) -> list[dict[str, Any]]:
    return [dict(zip(("review_id", "book_id", "genre", "text"), row, strict=True)) for row in rows]


def test_the_report_counts_what_a_hand_made_split_holds() -> None:
    train = rows_from(
        ("1", "b1", "poetry", "the same words here"),  # also in test, under the other genre
        ("2", "b1", "romance", "twice in train only"),
        ("3", "b2", "romance", "twice in train only"),
        ("4", "b3", "poetry", " \n"),  # empty, as in test: no duplicate
        ("5", "b4", "poetry", "two words"),
        ("6", "b4", "poetry", "an id that stands in test"),
        ("7", "b5", "poetry", "the same words here "),  # not exactly the same
    )
    test = rows_from(
        ("8", "b6", "romance", "the same words here"),
        ("9", "b2", "romance", " \n"),
        ("6", "b5", "romance", "one id in both genres"),
    )
    assert duplicates_report(train, test) == {
        "empty_texts": 2,
        "exact_duplicate_texts": 4,
        "book_ids_in_train_and_test": 2,  # b2, b5
        "train_reviews_also_in_test": 2,
        "train_review_ids_also_in_test": ["1", "6"],
    }
    assert [row["review_id"] for row in leaked_rows(train, test)] == ["1", "6"]
    assert leaked_rows(train[1:5], test) == []

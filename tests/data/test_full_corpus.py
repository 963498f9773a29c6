"""All reviews outside a test split, as shards."""

import gzip
import json
from collections import Counter
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from goodreads.common.errors import InputError
from goodreads.data import full_corpus
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from goodreads.data.split_store import ShardedSplit, read_split, read_train
from tests.data.reviews import (
    flip_a_byte,
    gz,
    ids_of,
    manifest_of,
    names_in,
    reviews,
    rows_of,
    split_bytes,
    two_genres,
    write_reviews,
)


def everything(source: object, head: int | None = None) -> Parameters:
    return Parameters(str(source), ("poetry", "romance"), head, None, None)


@pytest.fixture(scope="module")
def world(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and all other reviews in everything/; not to be changed."""
    folder = tmp_path_factory.mktemp("corpus")
    # a test split so large that a short text is in it
    build_split(two_genres(files, 3000, 1000, train_per_genre=500), folder / "data")
    build_split(everything(files), folder / "everything", test_from=folder / "data")
    return folder


def test_all_reviews_but_the_test_splits_become_shards(world: Path, files: Path) -> None:
    data, test = world / "everything", rows_of(world / "data", "test")
    assert (data / "test.parquet").read_bytes() == (world / "data" / "test.parquet").read_bytes()
    ids, texts = {r["review_id"] for r in test}, {r["text"] for r in test if r["text"].strip()}
    expected, held = [], Counter[str]()
    for genre in ("poetry", "romance"):
        with gzip.open(files / gz(genre), "rt", encoding="utf-8") as file:
            for record in map(json.loads, file):
                if record["review_id"] in ids:
                    held["id"] += 1
                elif record["review_text"] in texts:
                    held["text"] += 1
                else:
                    expected.append((record["review_id"], genre, record["review_text"]))
    assert held["id"] == len(test) and held["text"]
    rows = [row for path in sorted((data / "train").glob("*")) for row in pq.read_table(path).to_pylist()]
    assert [(row["review_id"], row["genre"], row["text"]) for row in rows] == expected
    assert {row["label"] for row in rows if row["genre"] == "romance"} == {1}
    manifest = manifest_of(data)
    assert manifest["report"]["held_out_by_review_id"] == held["id"]
    assert manifest["report"]["held_out_by_text"] == held["text"]
    assert manifest["report"]["empty_texts"] == sum(not text.strip() for *_, text in expected)
    assert manifest["splits"]["test"] == manifest_of(world / "data")["splits"]["test"]
    assert manifest["test_parameters"] == manifest_of(world / "data")["parameters"]
    assert sum(g["reviews"] for g in manifest["splits"]["train"]["genres"].values()) == len(expected)
    shards = ["train/poetry-00000.parquet", "train/romance-00000.parquet"]
    assert list(manifest["files"]) == [*shards, "test.parquet"]
    assert names_in(data) == ["manifest.json", "test.parquet", *shards]

    split, whole = read_train(data), read_split(data, "train")
    assert isinstance(split, ShardedSplit) and list(split.texts) == whole.texts
    assert whole.review_ids == [review_id for review_id, *_ in expected]
    patterns = {"train": f"{data}/train/*.parquet", "test": f"{data}/test.parquet"}
    streamed = datasets.load_dataset("parquet", data_files=patterns, streaming=True)
    assert sum(1 for _ in streamed["train"]) == len(expected)


def test_a_shard_ends_with_the_row_group_that_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(full_corpus, "SHARD_GROUPS", 3)
    monkeypatch.setattr(full_corpus, "GROUP_ROWS", 2)
    for genre in ("poetry", "romance"):
        write_reviews(tmp_path / "in", genre, reviews(genre, 40))
    build_split(two_genres(tmp_path / "in", 30), tmp_path / "data")
    manifest = build_split(everything(tmp_path / "in"), tmp_path / "all", test_from=tmp_path / "data")
    rows = [entry["rows"] for name, entry in manifest["files"].items() if name.startswith("train/poetry")]
    assert rows == [6] * 6  # 40 less the 4 of the test split
    held_out = set(ids_of(tmp_path / "data", "test"))
    expected = [r["review_id"] for g in ("poetry", "romance") for r in reviews(g, 40)]
    assert read_split(tmp_path / "all", "train").review_ids == [i for i in expected if i not in held_out]


def test_a_second_run_uses_the_shards_and_a_damaged_one_is_made_again(
    tmp_path: Path, files: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build_split(two_genres(files), tmp_path / "data")
    folder = tmp_path / "all"
    made = build_split(everything(files, 200), folder, test_from=tmp_path / "data")
    assert build_split(everything(files, 200), folder, test_from=tmp_path / "data") == made
    flip_a_byte(folder / "train" / "romance-00000.parquet")
    again = build_split(everything(files, 200), folder, test_from=tmp_path / "data")
    assert "rebuilding" in caplog.text
    assert {**again, "created": ""} == {**made, "created": ""}
    assert read_split(folder, "train")

    # an ordinary split takes the shards' place, and leaves what others put beside them
    (folder / "train" / "notes.txt").write_text("mine")
    (folder / "train" / "mine-00000.parquet").write_text("mine")
    with pytest.raises(
        InputError, match=r"mine-00000\.parquet is in the way, and data_loader.py did not make"
    ):
        build_split(two_genres(files), folder, force=True)
    (folder / "train" / "mine-00000.parquet").unlink()
    with pytest.raises(InputError, match="made with other parameters"):
        build_split(two_genres(files), folder)
    build_split(two_genres(files), folder, force=True)
    assert split_bytes(folder) == split_bytes(tmp_path / "data")
    assert names_in(folder) == ["manifest.json", "test.parquet", "train.parquet", "train/notes.txt"]


def test_another_test_split_or_other_genres_are_refused_before_anything_is_read(
    tmp_path: Path, files: Path
) -> None:
    wanted, out, data = everything("nowhere"), tmp_path / "all", tmp_path / "data"
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        build_split(wanted, out, test_from=data)
    build_split(two_genres(files, genres=("poetry", "children")), data)
    with pytest.raises(InputError, match="is of other genres: children, poetry"):
        build_split(wanted, out, test_from=data)
    build_split(two_genres(files), data, force=True)
    with pytest.raises(InputError, match="--test-from and --per-genre all go together"):
        build_split(wanted, out)
    with pytest.raises(InputError, match="--test-from and --per-genre all go together"):
        build_split(two_genres(files), out, test_from=data)
    assert not out.exists()

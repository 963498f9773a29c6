"""Data folders: sampled splits and all other reviews; what is reused, replaced, made again or left alone."""

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from goodreads.common.errors import InputError
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from goodreads.data.split_store import ShardedSplit, read_train
from tests.data import reviews as kit
from tests.data.reviews import gz, manifest_of, names_in, rows_of, two_genres, write_reviews
from tests.helpers import temporary_files
from tests.loopback import Answer, FileServer

TWO = ("poetry", "romance")
SHARDS = [f"train/{genre}-00000.parquet" for genre in TWO]


def everything(source: object) -> Parameters:
    return Parameters(str(source), TWO, None, None, None)


@pytest.fixture(scope="module")
def world(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/ and all other reviews in everything/; not to be changed."""
    folder = tmp_path_factory.mktemp("world")
    # a test split so large that a short text is in it
    build_split(two_genres(files, 3000, 1000, train_per_genre=500), folder / "data")
    build_split(everything(files), folder / "everything", test_from=folder / "data")
    return folder


def stamps(folder: Path) -> list[tuple[str, int, int]]:
    paths = [folder / name for name in names_in(folder)]
    return [(path.name, path.stat().st_mtime_ns, path.stat().st_ino) for path in paths]


def test_all_reviews_but_the_test_splits_become_shards(world: Path, files: Path) -> None:
    data, test = world / "everything", rows_of(world / "data", "test")
    assert (data / "test.parquet").read_bytes() == (world / "data" / "test.parquet").read_bytes()
    ids, texts = {r["review_id"] for r in test}, {r["text"] for r in test if r["text"].strip()}
    expected = [
        (record["review_id"], label, record["review_text"])
        for label, genre in enumerate(TWO)
        for record in map(json.loads, gzip.decompress((files / gz(genre)).read_bytes()).splitlines())
        if record["review_id"] not in ids and record["review_text"] not in texts
    ]
    rows = [row for name in TWO for row in rows_of(data, f"train/{name}-00000")]
    assert [(row["review_id"], row["label"], row["text"]) for row in rows] == expected
    assert len(expected) < 6_000 - len(test)  # one text at least
    manifest, origin = manifest_of(data), manifest_of(world / "data")
    assert manifest["report"]["held_out"] == 6_000 - len(expected)
    assert manifest["splits"]["test"] == origin["splits"]["test"]
    assert manifest["test_parameters"] == origin["parameters"]
    assert sum(g["reviews"] for g in manifest["splits"]["train"]["genres"].values()) == len(expected)
    assert list(manifest["files"]) == [*SHARDS, "test.parquet"]
    assert names_in(data) == ["manifest.json", "test.parquet", *SHARDS]

    split = read_train(data)
    assert isinstance(split, ShardedSplit) and list(split.texts) == [row["text"] for row in rows]
    patterns = {"train": f"{data}/train/*.parquet", "test": f"{data}/test.parquet"}
    streamed = datasets.load_dataset("parquet", data_files=patterns, streaming=True)
    assert sum(1 for _ in streamed["train"]) == len(expected)


def test_what_contradicts_the_test_split_is_refused_before_anything_is_read(
    tmp_path: Path, world: Path
) -> None:
    out, data = tmp_path / "all", world / "data"
    other = Parameters("nowhere", ("poetry", "children"), None, None, None)
    for parameters, test_from, said in (
        (everything("nowhere"), tmp_path, r"manifest\.json is missing"),
        (other, data, "is of other genres: poetry, romance"),
        (everything("nowhere"), None, "--test-from and --per-genre all go together"),
        (two_genres("nowhere"), data, "--test-from and --per-genre all go together"),
    ):
        with pytest.raises(InputError, match=said):
            build_split(parameters, out, test_from=test_from)
    assert not out.exists()


@pytest.mark.parametrize(
    ("kind", "name", "damage", "said"),
    [
        ("data", "test.parquet", kit.write(""), "test.parquet is not the file its manifest"),
        ("data", "train.parquet", Path.unlink, "train.parquet is missing"),
        ("data", "manifest.json", kit.write('{"format": 1'), "manifest.json is damaged or"),
        ("data", "manifest.json", kit.write('{"format": 1, "files": 3}'), "manifest.json is no manifest"),
        ("data", "manifest.json", Path.unlink, ""),
        ("everything", SHARDS[1], kit.flip_a_byte, "romance-00000.parquet is not the file its manifest"),
    ],
)
def test_a_whole_split_is_used_again_and_a_damaged_one_made_again_saying_why(
    tmp_path: Path, world: Path, caplog: pytest.LogCaptureFixture,
    kind: str, name: str, damage: Callable[[Path], Any], said: str,
) -> None:  # fmt: skip
    out, before = Path(shutil.copytree(world / kind, tmp_path / "out")), manifest_of(world / kind)
    parameters = Parameters.from_json(before["parameters"], "")

    def build() -> dict[str, Any]:
        return build_split(parameters, out, test_from=world / "data" if kind == "everything" else None)

    whole = stamps(out)
    assert build() == before and stamps(out) == whole
    damage(out / name)
    caplog.clear()
    assert build() == before
    assert said in caplog.text and caplog.text.count("rebuilding") == bool(said)
    assert all((out / n).read_bytes() == (world / kind / n).read_bytes() for n in names_in(world / kind))
    whole = stamps(out)
    assert build() == before and stamps(out) == whole


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 7}, "seed was 42, is 7"),
        ({"genres": ("poetry", "children")}, "genres was .*'romance'.*, is .*'children'"),
        ({"per_genre": 50, "train_per_genre": 40}, "per_genre was 1000, is 50; train_per_genre was 500"),
    ],
)
def test_a_split_of_other_parameters_is_replaced_with_force_only(
    tmp_path: Path, files: Path, world: Path, changes: dict[str, Any], said: str
) -> None:
    out = Path(shutil.copytree(world / "data", tmp_path / "out"))
    before = stamps(out)
    parameters = two_genres(files, 3000, **{"per_genre": 1000, "train_per_genre": 500, **changes})
    with pytest.raises(InputError, match=f"made with other parameters: {said}.*; --force replaces it"):
        build_split(parameters, out)
    assert stamps(out) == before
    made = build_split(parameters, out, force=True)
    assert build_split(parameters, out) == made


@pytest.mark.parametrize("name", ["manifest.json", "train.parquet", "test.parquet", "train/a-00000.parquet"])
@pytest.mark.parametrize("force", [False, True])
def test_a_file_of_somebody_else_is_never_replaced(
    tmp_path: Path, files: Path, name: str, force: bool
) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / name).write_text('{"name": "my web app"}')
    with pytest.raises(InputError, match=f"{name} is in the way, and data_loader.py did not make it"):
        build_split(two_genres(files), tmp_path, force=force)
    assert (tmp_path / name).read_text() == '{"name": "my web app"}' and names_in(tmp_path) == [name]


def test_a_sampled_split_takes_the_shards_place_and_leaves_other_files(
    tmp_path: Path, files: Path, world: Path
) -> None:
    out = Path(shutil.copytree(world / "everything", tmp_path / "out"))
    mine = [out / "train" / "notes.txt", Path(shutil.copy(out / "test.parquet", out / "copy.parquet"))]
    mine[0].write_text("mine")
    build_split(two_genres(files), out, force=True)
    (out / "manifest.json").unlink()
    build_split(two_genres(files), out)
    assert names_in(out) == [
        "copy.parquet",
        "manifest.json",
        "test.parquet",
        "train.parquet",
        "train/notes.txt",
    ]


def test_a_failed_rebuild_leaves_the_old_split_usable(tmp_path: Path, files: Path, world: Path) -> None:
    out = Path(shutil.copytree(world / "data", tmp_path / "out"))
    before = stamps(out)
    with FileServer(files, answers={gz("romance"): Answer(404, b"")}) as server:
        for parameters in (two_genres(server.url), two_genres("nowhere")):
            with pytest.raises(InputError, match=r"HTTP 404|No such file"):
                build_split(parameters, out, force=True)
    assert stamps(out) == before and temporary_files(tmp_path) == []


def test_duplicates_are_counted_always_and_dropped_from_train_on_request(tmp_path: Path) -> None:
    genres = {genre: kit.reviews(genre, 20) for genre in TWO}
    for genre, records in genres.items():
        write_reviews(tmp_path / "plain", genre, records)
    drawn = kit.reference_sample(tmp_path / "plain", TWO, 20, 20)
    # what is drawn depends on the counts alone, so texts can be chosen by where their review will end up
    (p, r), cut = ([genres[g][int(d["review_id"][len(g) :])] for d in drawn[g]] for g in drawn), 15
    p[0]["review_text"] = p[cut]["review_text"]
    r[3]["review_text"] = p[cut + 1]["review_text"]  # across genres
    r[7]["review_id"] = r[cut + 4]["review_id"]
    p[1]["review_text"] = p[2]["review_text"]  # within train: stays
    p[5]["review_text"] = p[cut + 2]["review_text"] = ""  # empty: stays
    doubled = [p[0]["review_id"], r[3]["review_id"], r[7]["review_id"]]
    for genre, records in genres.items():
        write_reviews(tmp_path / "in", genre, records)
    for drop in (False, True):
        parameters = two_genres(tmp_path / "in", 20, 20, train_per_genre=cut, drop_duplicates=drop)
        manifest = build_split(parameters, tmp_path / f"{drop}")
        assert manifest["report"] == {"train_reviews_also_in_test": 3}
        assert manifest["removed_train_review_ids"] == (doubled if drop else [])
        assert manifest["splits"]["train"]["genres"]["romance"]["reviews"] == (cut - 2 if drop else cut)
    ids = kit.ids_of(tmp_path / "False", "train")
    assert ids == [d["review_id"] for d in (*p[:cut], *r[:cut])]
    kept = [i for place, i in enumerate(ids) if place not in (0, cut + 3, cut + 7)]
    assert kit.ids_of(tmp_path / "True", "train") == kept
    assert kit.split_bytes(tmp_path / "True")[1] == kit.split_bytes(tmp_path / "False")[1]


def test_too_few_reviews_are_an_error_unless_allowed(tmp_path: Path) -> None:
    for genre, count in (("poetry", 30), ("romance", 200)):
        write_reviews(tmp_path / "in", genre, kit.reviews(genre, count))
    with pytest.raises(InputError, match=r"poetry has 30 reviews, fewer than 100; .* --allow-fewer"):
        build_split(two_genres(tmp_path / "in", 150, 100), tmp_path / "out")
    manifest = build_split(two_genres(tmp_path / "in", 150, 100, allow_fewer=True), tmp_path / "out")
    assert manifest["read"]["poetry"]["reviews_read"] == 30
    poetry, romance = kit.reference_sample(tmp_path / "in", TWO, 150, 100).values()
    assert kit.ids_of(tmp_path / "out", "train") == [d["review_id"] for d in poetry[:24] + romance[:80]]
    assert kit.ids_of(tmp_path / "out", "test") == [d["review_id"] for d in poetry[24:] + romance[80:]]


def test_bad_lines_are_refused_or_left_out_and_move_no_other_review(tmp_path: Path) -> None:
    for name in ("in", "whole"):
        for genre in TWO:
            write_reviews(tmp_path / name, genre, kit.reviews(genre, 100))
    lines = [json.dumps(review) for review in kit.reviews("poetry", 100)]
    lines[3], lines[70] = "oops", lines[70].replace('"No. 70 of poetry"', "null")
    (tmp_path / "in" / gz("poetry")).write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(InputError, match=r"poetry: .*bad line 2 of this file"):
        build_split(two_genres(tmp_path / "in", 100, 100, max_bad_lines=1), tmp_path / "data")
    manifest = build_split(two_genres(tmp_path / "in", 100, 100, max_bad_lines=2), tmp_path / "data")
    bad = manifest["read"]["poetry"]["bad_lines"]
    assert sum("line 4 is not JSON" in line for line in bad) == 1 == len(bad) - 1
    assert sum("line 71 has no review_text of type str" in line for line in bad) == 1
    build_split(two_genres(tmp_path / "whole", 100, 100), tmp_path / "all")
    for name in ("train", "test"):
        others = [row for row in rows_of(tmp_path / "all", name) if row["book_id"] not in ("b3", "b70")]
        rows = [row for row in rows_of(tmp_path / "data", name) if row["book_id"] not in ("b3", "b70")]
        assert rows == others

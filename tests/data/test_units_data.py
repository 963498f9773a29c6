"""Labels, files, gzip streams, sampling, splits, the data report and the generated reviews, in process."""

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goodreads.common.errors import InputError
from goodreads.common.files import (
    atomic_folder,
    atomic_path,
    read_json,
    sha256_file,
    sha256_lines,
    write_json,
)
from goodreads.data import sample_reviews as sample
from goodreads.data.data_report import data_report, drop_leaked
from goodreads.data.genres import GENRES, match_labels, parse_genres
from goodreads.data.protocol import Parameters, sample_genres
from goodreads.data.review_files import BOM, Source, line_blocks
from goodreads.data.review_parser import parse_review
from goodreads.data.sampling import Chosen, Reservoir, draw_indices
from goodreads.data.split_store import Split, carve, content_sha256, read_split
from goodreads.hub.model_card import sampling_sentence, split_manifest
from tests.helpers import ROOT, temporary_files
from tests.scripts.test_data_loader import gz, reference_sample

RECORD = {"review_id": "r", "book_id": "b", "user_id": "u", "review_text": "t", "rating": 3}
steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


# labels


def test_genres_come_back_in_sampling_order_whatever_order_they_are_named_in() -> None:
    assert parse_genres(" young_adult, children ,poetry,") == ["poetry", "children", "young_adult"]
    assert parse_genres(",".join(GENRES))[:2] == ["poetry", "children"]
    assert list(GENRES) == sorted(GENRES)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("poetry,cooking", "unknown genre 'cooking'"),
        ("poetry,romance,poetry", "named twice"),
        ("poetry", "at least two"),
        ("", "at least two"),
    ],
)
def test_a_useless_list_of_genres_is_refused(text: str, fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        parse_genres(text)


@steady
@given(st.permutations(list(GENRES)), st.permutations(list(GENRES)))
def test_labels_are_matched_by_name_in_any_order(model: list[str], data: list[str]) -> None:
    columns = match_labels(model, data, "m")
    assert [model[column] for column in columns] == data
    assert match_labels(model, model, "m") == list(range(8))


@pytest.mark.parametrize("labels", [["LABEL_0", "LABEL_1"], ["poetry"], ["poetry", "romance", "children"]])
def test_foreign_labels_are_refused_naming_the_model(labels: list[str]) -> None:
    with pytest.raises(InputError, match=r"^my/model: .*poetry, romance"):
        match_labels(labels, ["poetry", "romance"], "my/model")


# files


def test_a_file_written_whole_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    for content in ("old", "new"):
        with atomic_path(path) as temporary:
            temporary.write_text(content)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == content
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize(
    ("raised", "seen"), [(ValueError("x"), ValueError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(
    tmp_path: Path, raised: BaseException, seen: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(seen), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise raised
    assert path.read_text() == "old"
    assert temporary_files(tmp_path) == []


def test_a_full_disk_is_an_input_error_naming_the_file(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"cannot write .*file: No space left"),
        atomic_path(tmp_path / "file"),
    ):
        Path("/dev/full").write_text("x")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_json(tmp_path / "file" / "inner.json", {})


def test_a_folder_is_replaced_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with atomic_folder(path) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(path) as temporary:
        (temporary / "a").write_text("half")
        raise ZeroDivisionError
    assert [(p.name, p.read_text()) for p in path.iterdir()] == [("a", "old")]
    (tmp_path / ".model.tmp").mkdir()
    (tmp_path / ".model.tmp" / "left by a killed run").touch()
    with atomic_folder(path) as temporary:
        (temporary / "b").write_text("new")
    assert [(p.name, p.read_text()) for p in path.iterdir()] == [("b", "new")]
    assert temporary_files(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "fragment"),
    [
        (None, "is missing; make it with: make it"),
        (b"{", "is damaged"),
        (b'{"a": "\xff"}', "is damaged"),
        (b"[1]", "is not a JSON object"),
    ],
)
def test_an_unusable_json_file_is_an_input_error(
    tmp_path: Path, content: bytes | None, fragment: str
) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=fragment):
        read_json(tmp_path / "x.json", "make it")


def test_json_survives_writing_and_reading_and_never_holds_nan(tmp_path: Path) -> None:
    document = {"a": ["é\u2028", 1.5, None]}
    write_json(tmp_path / "x.json", document)
    assert read_json(tmp_path / "x.json", "") == document
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert read_json(tmp_path / "x.json", "") == document


@steady
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_the_hash_of_lines_is_that_of_a_text_file(lines: list[str]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    assert sha256_lines(lines) == hashlib.sha256(text.encode()).hexdigest()


# gzip lines and review records


def pieces(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """The data in chunks of those sizes, over and over."""
    start = turn = 0
    while start < len(data):
        yield data[start : start + sizes[turn % len(sizes)]]
        start += sizes[turn % len(sizes)]
        turn += 1


def lines_of(chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
    return chain.from_iterable(block.lines() for block in line_blocks(chunks, name))


def members(data: bytes, cuts: Sequence[int]) -> bytes:
    """Gzip data of one member per part between the cuts."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return b"".join(gzip.compress(data[a:b], mtime=0) for a, b in pairwise(edges))


byte_lines = st.lists(
    (st.binary(max_size=40) | st.just(BOM)).map(lambda line: line.replace(b"\n", b" ")), max_size=12
)


@steady
@given(
    byte_lines,
    st.booleans(),
    st.lists(st.integers(0, 300), max_size=3),
    st.lists(st.integers(1, 60), min_size=1, max_size=5),
)
def test_lines_survive_any_members_and_any_chunks(
    lines: list[bytes], final_newline: bool, cuts: list[int], sizes: list[int]
) -> None:
    data = b"\n".join(lines) + (b"\n" if final_newline and lines else b"")
    packed = members(data, cuts)
    expected = data.removeprefix(BOM).split(b"\n")
    if data == BOM:
        expected = [b"", b""]
    assert list(lines_of(pieces(packed, sizes), "w")) == (expected if expected[-1] else expected[:-1])


@pytest.mark.parametrize("size", [1, 2, 25, 1000])
def test_a_byte_order_mark_before_the_first_line_is_left_out(size: int) -> None:
    data = members(BOM + b"one\n" + BOM + b"two", [2])  # the mark itself stands in two members
    assert list(lines_of(pieces(data, [size]), "w")) == [b"one", BOM + b"two"]


@steady
@given(byte_lines.filter(any), st.lists(st.integers(0, 200), max_size=2), st.data())
def test_a_truncated_file_is_reported_unless_it_ends_between_members(
    lines: list[bytes], cuts: list[int], data: st.DataObject
) -> None:
    packed = members(b"\n".join(lines), cuts)
    packed = packed[: data.draw(st.integers(1, len(packed) - 1))]
    try:
        expected = gzip.decompress(packed)  # the standard library is the judge
    except (EOFError, gzip.BadGzipFile):
        with pytest.raises(InputError, match=r"w is truncated at byte [\d,]+; fetch it again"):
            list(lines_of(pieces(packed, [7]), "w"))
    else:
        assert b"\n".join(lines_of(pieces(packed, [7]), "w")) == expected.removeprefix(BOM).removesuffix(
            b"\n"
        )


@settings(steady, max_examples=200)
@given(byte_lines, st.lists(st.integers(0, 200), max_size=2), st.integers(1, 255), st.data())
def test_a_flipped_byte_never_passes_for_other_lines(
    lines: list[bytes], cuts: list[int], flip: int, data: st.DataObject
) -> None:
    packed = bytearray(members(b"\n".join(lines), cuts))
    expected = list(lines_of([bytes(packed)], "w"))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= flip
    try:
        assert list(lines_of(pieces(packed, [50]), "w")) == expected  # a byte that carries no content
    except InputError as error:
        assert any(word in str(error) for word in ("damaged", "truncated", "not a gzip file"))


@pytest.mark.parametrize(
    ("data", "fragment"),
    [
        (
            b"<html><TITLE>\n Gateway\nTimeout </title>",
            r"not a gzip file: an HTML page titled 'Gateway\\nTimeout'",
        ),
        (b"\n<?xml version='1.0'?>", "not a gzip file: an HTML or XML page"),
        (b'{"review_id"', "not a gzip file: it begins with b'{"),
        (b"\x1fx", "not a gzip file"),
        (b"", "w is empty"),
    ],
)
def test_what_is_not_gzip_is_described(data: bytes, fragment: str) -> None:
    with pytest.raises(InputError, match=fragment):
        list(lines_of([data] if data else [], "w"))


def test_windows_newlines_keep_the_reviews() -> None:
    texts = ["one\r\ntwo", "three"]
    data = "".join(json.dumps(RECORD | {"review_text": text}) + "\r\n" for text in texts)
    lines = list(lines_of([gzip.compress(data.encode())], "w"))
    assert [parse_review(line, "w", 0)["review_text"] for line in lines] == texts


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        (b"", "is not JSON"),
        (b"{'review_id': 1}", "is not JSON"),
        (b'{"review_id": "\xff"}', "is not UTF-8 .byte 16 of the line"),
        (b"[]", "is not a JSON object"),
        (b"NaN", "is not a JSON object"),
        *((json.dumps(RECORD | {key: bad}).encode(), f"no {key} of type {kind}") for key, bad, kind in (
            ("review_text", None, "str"), ("review_id", 7, "str"), ("book_id", ["b"], "str"),
            ("user_id", None, "str"), ("rating", "3", "int"), ("rating", float("nan"), "int"),
        )),
        *(
            (json.dumps({k: v for k, v in RECORD.items() if k != key}).encode(), f"no {key}")
            for key in RECORD
        ),
        pytest.param(json.dumps(RECORD | {"rating": True}).encode(), "no rating"),
        pytest.param(json.dumps(RECORD | {"rating": 10**30}).encode(), "rating"),
        pytest.param(b"[" * 100_000, "is not JSON"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_review_is_named_by_its_number(line: bytes, fragment: str) -> None:
    with pytest.raises(InputError, match=rf"^w, line 1,235 .*{fragment}"):
        parse_review(line, "w", 1234)


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"a \ud83d b", "a \ufffd b"),
        (r"\udc00", "\ufffd"),
        (r"\ud83d\ude00", "😀"),
        (r"é \u0000 \u2028", "é \0 \u2028"),
        ("", ""),
    ],
)
def test_half_surrogates_in_a_text_are_replaced_and_all_else_is_kept(escaped: str, text: str) -> None:
    line = json.dumps(RECORD | {"extra": 1}).replace('"t"', f'"{escaped}"')
    assert parse_review(line.encode(), "w", 0) == RECORD | {"review_text": text}


@pytest.mark.parametrize("key", ["review_id", "book_id", "user_id"])
def test_half_surrogates_in_an_id_do_not_reach_the_files(key: str) -> None:
    parse_review(json.dumps(RECORD | {key: "\ud800"}).encode(), "w", 0)[key].encode()


# sampling


@settings(steady, max_examples=40)
@given(
    st.sets(st.sampled_from(sorted(GENRES)), min_size=2),
    st.data(),
    st.integers(2, 12),
    st.integers(0, 20),
    st.integers(0, 2**32),
)
def test_the_sample_is_the_reference_loops_for_any_genres_sizes_and_seed(
    genres: set[str], data: st.DataObject, per_genre: int, surplus: int, seed: int
) -> None:
    """Files may end before head or per_genre; the genres after them must be drawn right all the same."""
    with tempfile.TemporaryDirectory() as name:
        for genre in genres:
            text = "".join(
                json.dumps(
                    RECORD | {"review_id": f"{genre}-{i}", "review_text": "\u2028\x85é"}, ensure_ascii=False
                )
                + "\n"
                for i in range(data.draw(st.integers(2, 40)))
            )
            path = Path(name, gz(genre))
            path.write_bytes(gzip.compress(text.encode(), 1))
        head = per_genre + surplus
        parameters = Parameters(
            name, tuple(parse_genres(",".join(genres))), head, per_genre, 1, seed, allow_fewer=True
        )
        samples = sample_genres(parameters, Source(name))
        expected = reference_sample(Path(name), genres, head, per_genre, seed)
    assert list(samples) == list(expected)
    for genre, records in expected.items():
        drawn = [review["review_id"] for review in samples[genre].reviews if review is not None]
        assert drawn == [record["review_id"] for record in records], genre


@steady
@given(
    st.dictionaries(st.text(max_size=2), st.integers(0, 3000), max_size=5), st.integers(1, 60), st.integers()
)
def test_indices_are_drawn_from_one_generator_without_repetition(
    counts: dict[str, int], per_genre: int, seed: int
) -> None:
    rng = random.Random(seed)
    drawn = draw_indices(counts, per_genre, seed)
    for genre, n in counts.items():
        assert drawn[genre] == rng.sample([*range(n)], min(n, per_genre))
        assert len(set(drawn[genre])) == min(n, per_genre)


def reservoir(n: int, size: int, seed: str) -> list[int]:
    """The indices that a reservoir draws of n lines, which name themselves."""
    sampler, taken = Reservoir(size, seed), []
    while sampler.next < n:
        taken.append(sampler.next)
        sampler.take(b"%d" % sampler.next)
    assert taken == sorted(set(taken))
    kept = sampler.kept()
    assert all(line == b"%d" % index for index, line in kept)
    return [index for index, _ in kept]


@steady
@given(st.integers(0, 3000), st.integers(1, 60), st.text(max_size=3))
def test_a_reservoir_draws_without_repetition_and_reproducibly(n: int, size: int, seed: str) -> None:
    drawn = reservoir(n, size, seed)
    assert len(drawn) == len(set(drawn)) == min(n, size)
    assert set(drawn) <= set(range(n))
    assert reservoir(n, size, seed) == drawn


def test_a_reservoir_draws_each_line_equally_often_in_each_place() -> None:
    from scipy.stats import chisquare

    lines, places = Counter[int](), Counter[int]()
    for seed in range(4000):
        drawn = reservoir(50, 10, str(seed))
        lines.update(drawn)
        places[drawn.index(min(drawn))] += 1  # the place says nothing about when a line came
    assert chisquare([lines[n] for n in range(50)]).pvalue > 1e-4
    assert chisquare([places[n] for n in range(10)]).pvalue > 1e-4


@steady
@given(st.lists(st.integers(0, 100), unique=True, max_size=20), st.integers(0, 120))
def test_chosen_lines_come_back_in_draw_order_as_far_as_the_file_goes(indices: list[int], n: int) -> None:
    sampler = Chosen(indices)
    while sampler.next < n:
        sampler.take(b"%d" % sampler.next)
    assert sampler.kept() == [(index, b"%d" % index) for index in indices if index < n]


# splits


def test_a_split_is_read_back_with_its_labels_by_name(small_data: Path) -> None:
    split = read_split(small_data, "test")
    assert len(split) == 160 == len(split.texts) == len(split.labels)
    assert split.label_names == sorted(GENRES)
    assert [split.label_names[label] for label in split.labels[::20]] == parse_genres(",".join(GENRES))


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["train.parquet", "test.parquet"])
@pytest.mark.parametrize(
    ("damage", "fragment"),
    [
        (_flip_a_byte, "is not the file its manifest describes"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "is not the file its manifest describes"),
        (Path.unlink, "is missing; rebuild it with"),
        (lambda path: write_json(path.parent / "manifest.json", {"format": 2}), "is not of format 1"),
        (lambda path: (path.parent / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda path: (path.parent / "manifest.json").write_text("{"), "manifest.json is damaged"),
        pytest.param(
            lambda path: write_json(path.parent / "manifest.json", {"format": 1}),
            "manifest.json",
        ),
    ],
    ids=["flipped byte", "cut", "gone", "other format", "no manifest", "half a manifest", "empty manifest"],
)
def test_a_changed_data_folder_is_refused_whichever_split_is_read(
    tmp_path: Path, small_data: Path, name: str, damage: Any, fragment: str
) -> None:
    data = shutil.copytree(small_data, tmp_path / "data")
    damage(data / name)
    with pytest.raises(InputError, match=fragment):
        # an image holds the test split alone
        read_split(data, Path(name).stem if damage is Path.unlink else "test")


@steady
@given(st.lists(st.integers(0, 2), min_size=1), st.integers(1, 4))
def test_carving_takes_the_last_reviews_of_each_genre_and_loses_none(labels: list[int], n: int) -> None:
    ids = [f"r{i}" for i in range(len(labels))]
    split = Split(ids, [f"text of {i}" for i in ids], labels, ["a", "b", "c"])
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


# the data report


def _rows(*rows: tuple[str, str, str, str]) -> list[dict[str, Any]]:
    return [dict(zip(("review_id", "book_id", "genre", "text"), row, strict=True)) for row in rows]


def test_the_report_counts_what_a_hand_made_split_holds() -> None:
    train = _rows(
        ("1", "b1", "poetry", "the same words here"),  # also in test, under the other genre
        ("2", "b1", "romance", "twice in train only"),
        ("3", "b2", "romance", "twice in train only"),
        ("4", "b3", "poetry", " \n"),  # empty, as in test: no duplicate
        ("5", "b4", "poetry", "two words"),
        ("6", "b4", "poetry", "an id that stands in test"),
        ("7", "b5", "poetry", "the same words here "),  # not exactly the same
    )
    test = _rows(
        ("8", "b6", "romance", "the same words here"),
        ("9", "b2", "romance", " \n"),
        ("6", "b5", "romance", "one id in both genres"),
    )
    assert data_report(train, test) == {
        "empty_texts": 2,
        "very_short_texts": 1,
        "very_short_means_fewer_words_than": 3,
        "exact_duplicate_texts": 4,
        "review_ids_in_several_genres": 1,
        "book_ids_in_several_genres": 2,  # b1, b5
        "book_ids_in_train_and_test": 2,  # b2, b5
        "train_reviews_also_in_test": 2,
        "train_review_ids_also_in_test": ["1", "6"],
    }
    before = [dict(row) for row in test]
    assert drop_leaked(train, test) == ["1", "6"]
    assert [row["review_id"] for row in train] == ["2", "3", "4", "5", "7"]
    assert test == before
    assert drop_leaked(train, test) == []


# generated reviews


def test_generated_reviews_are_the_same_in_every_process() -> None:
    code = (
        "import hashlib, json; from goodreads.data.sample_reviews import review\n"
        "lines = [json.dumps(review('romance', n)) for n in range(100)]\n"
        "print(hashlib.sha256('\\n'.join(lines).encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert hashes == {"619a67292566ecc5ed1ebf15ac2231d120cbf5bb6090b038988a9ef33dd43663\n"}


def test_the_first_generated_reviews_are_the_same_for_any_number_of_them() -> None:
    few, many = (gzip.decompress(b"".join(sample.gzip_chunks("poetry", n))) for n in (7, 40))
    assert few == b"".join(many.splitlines(keepends=True)[:7])
    assert few.count(b"\n") == 7


def test_generated_reviews_have_the_fields_of_the_real_ones() -> None:
    kinds = {
        "user_id": str, "book_id": str, "review_id": str, "rating": int, "review_text": str,
        "date_added": str, "date_updated": str, "read_at": str, "started_at": str, "n_votes": int,
        "n_comments": int,
    }  # fmt: skip
    ids = set()
    for genre in GENRES:
        for number in range(50):
            record = sample.review(genre, number)
            assert {name: type(value) for name, value in record.items()} == kinds
            ids.add(record["review_id"])
    assert len(ids) == 50 * len(GENRES)


def test_writing_the_sample_files_leaves_whole_gzip_files(tmp_path: Path) -> None:
    sample.write_files(tmp_path, 5, ["poetry", "romance"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        gz("poetry"),
        gz("romance"),
    ]
    for path in tmp_path.iterdir():
        assert gzip.decompress(path.read_bytes()).count(b"\n") == 5
        assert sha256_file(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_generated_reviews_can_be_learned_but_not_perfectly() -> None:
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    def reviews(numbers: range) -> tuple[list[str], list[str]]:
        rows = [(str(sample.review(genre, n)["review_text"]), genre) for genre in GENRES for n in numbers]
        return [text for text, _ in rows], [genre for _, genre in rows]

    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=200, C=0.1))
    accuracy = model.fit(*reviews(range(400))).score(*reviews(range(400, 600)))
    assert 0.3 < accuracy < 0.9  # chance is 0.125


# what is published of it


def test_the_card_says_how_the_reviews_were_chosen() -> None:
    sample_of = Parameters().as_json()
    everything = Parameters(head=None, per_genre=None, train_per_genre=None, test_split="x").as_json()
    assert sampling_sentence({"parameters": sample_of}) == (
        "the first 10,000 reviews of each genre, 1,000 of them drawn (seed 42), the first 800 for training"
    )
    assert sampling_sentence({"parameters": everything, "test_parameters": sample_of}) == (
        "all reviews of each genre for training but those whose id or text stands in the test split; "
        "for that, of the first 10,000 reviews of each genre, 1,000 of them drawn (seed 42), the last 200"
    )


def test_a_published_split_names_the_test_reviews_and_how_to_draw_them() -> None:
    split = Split(["r1", "r2"], ["a", "b"], [1, 0], ["poetry", "romance"])
    splits = {name: {"content_sha256": name} for name in ("train", "test")}
    manifest = {"parameters": {"head": None}, "test_parameters": {"head": 9}, "labels": [], "splits": splits}
    published = split_manifest(manifest, split, None)
    assert published["parameters"] == {"head": 9}
    assert published["train_review_ids"] is None
    assert published["content_sha256"] == {"train": "train", "test": "test"}
    assert published["test"] == [{"review_id": "r1", "label": 1}, {"review_id": "r2", "label": 0}]

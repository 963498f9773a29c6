import gzip
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from threading import Event, active_count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goodreads.common.errors import InputError
from goodreads.data import review_files
from goodreads.data.review_files import BOM, ReviewFile, Source, read_genres
from tests.data.reviews import gz, reviews, write_reviews
from tests.loopback import Answer, FileServer

steady = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy


def members(data: bytes, cuts: Sequence[int]) -> bytes:
    """Gzip data of one member per part between the cuts."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return b"".join(gzip.compress(data[a:b], 1, mtime=0) for a, b in pairwise(edges))


def lines_of(packed: bytes, chunk: int = 1 << 16) -> list[bytes]:
    """The lines of a local file with this content, read in chunks of at most that size."""
    before, review_files.CHUNK = review_files.CHUNK, chunk
    try:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, gz("poetry")).write_bytes(packed)
            return list(ReviewFile(Source(folder), "poetry", Event()).lines())
    finally:
        review_files.CHUNK = before


byte_lines = st.lists(
    (st.binary(max_size=40) | st.just(BOM)).map(lambda line: line.replace(b"\n", b" ")), max_size=12
)


@steady
@given(byte_lines, st.booleans(), st.lists(st.integers(0, 300), max_size=3), st.integers(1, 60))
def test_lines_are_the_same_for_any_members_and_chunks(
    lines: list[bytes], final_newline: bool, cuts: list[int], chunk: int
) -> None:
    data = b"\n".join(lines) + (b"\n" if final_newline and lines else b"")
    *whole, last = data.removeprefix(BOM).split(b"\n")
    expected = [line + b"\n" for line in whole] + ([last] if last or data == BOM else [])
    assert lines_of(members(data, cuts), chunk) == expected


def test_a_byte_order_mark_before_the_first_line_is_left_out() -> None:
    data = members(BOM + b"one\n" + BOM + b"two", [2])  # the mark itself stands in two members
    assert lines_of(data, 1) == [b"one\n", BOM + b"two"]


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
        with pytest.raises(InputError, match=r"is truncated at byte [\d,]+; fetch it again"):
            lines_of(packed, 7)
    else:
        assert b"".join(lines_of(packed, 7)) == expected.removeprefix(BOM)


@settings(steady, max_examples=200)
@given(byte_lines, st.lists(st.integers(0, 200), max_size=2), st.integers(1, 255), st.data())
def test_a_flipped_byte_never_yields_other_lines(
    lines: list[bytes], cuts: list[int], flip: int, data: st.DataObject
) -> None:
    packed = bytearray(members(b"\n".join(lines), cuts))
    expected = lines_of(packed)
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= flip
    try:
        assert lines_of(packed) == expected  # a byte that carries no content
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
        (b"version https://git-lfs", "not a gzip file: it begins with b'version"),
        (b"\x1fx", "not a gzip file"),
        (b"\x1f", "truncated at byte 1"),
        (b"", "empty"),
    ],
)
def test_what_is_not_gzip_is_described(data: bytes, fragment: str) -> None:
    with pytest.raises(InputError, match=f"^poetry: .*{gz('poetry')} is {fragment}"):
        lines_of(data)


def test_a_line_beyond_the_limit_is_an_error_and_needs_no_more_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(review_files, "LONGEST_LINE", 1_000)
    assert lines_of(gzip.compress(b"x" * 999 + b"\n" + b"y" * 1_000)) == [b"x" * 999 + b"\n", b"y" * 1_000]
    with pytest.raises(InputError, match="has a line of more than 1,000 bytes"):
        lines_of(gzip.compress(b"x" * 1_001))


@pytest.mark.parametrize(
    "base", ["nowhere", "a\0b", "file:///x", "ftp://127.0.0.1/x", "http://127.0.0.1:99999/"]
)
def test_a_useless_source_is_one_error(base: str) -> None:
    with pytest.raises(InputError, match="check --source"):
        list(ReviewFile(Source(base), "poetry", Event()).lines())


def test_no_more_is_read_than_the_lines_need(files: Path) -> None:
    file = ReviewFile(Source(str(files)), "poetry", Event())
    assert len(list(file.lines(20))) == file.count == 20
    assert 0 < file.bytes_read <= 1 << 16 < (files / gz("poetry")).stat().st_size


def test_the_results_are_in_order_and_a_failure_ends_the_other_genres(tmp_path: Path) -> None:
    for genre in ("poetry", "romance"):
        write_reviews(tmp_path, genre, reviews(genre, 30))
    counts = read_genres(Source(str(tmp_path)), ["romance", "poetry"], lambda file: len(list(file.lines(9))))
    assert list(counts.items()) == [("romance", 9), ("poetry", 9)]
    before = active_count()
    answers: dict[str, Answer | list[Answer]] = {
        gz("poetry"): Answer(404, b""), gz("romance"): Answer(stall_at=100, stall=1)
    }  # fmt: skip
    with FileServer(tmp_path, answers=answers) as server, pytest.raises(InputError, match="HTTP 404"):
        read_genres(Source(server.url), ["romance", "poetry"], lambda file: list(file.lines()))
    assert active_count() <= before + 1

import gzip
import json
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from threading import Event

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from goodreads.common.errors import InputError
from goodreads.data.review_files import GRACE, ReviewFile, read_genres
from tests.data.reviews import RECORD, gz, reviews, write_reviews
from tests.loopback import Answer, FileServer

byte_lines = st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" ")), max_size=12)


def review_file(source: object) -> ReviewFile:
    return ReviewFile(str(source), "poetry", Event())


def members(data: bytes, cuts: Sequence[int]) -> bytes:
    """Gzip data of one member per part between the cuts."""
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    return b"".join(gzip.compress(data[a:b], 1, mtime=0) for a, b in pairwise(edges))


def content_of(packed: bytes) -> bytes:
    """The lines of a local file with this content, joined."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, gz("poetry")).write_bytes(packed)
        return b"".join(review_file(folder).lines())


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(byte_lines.filter(any), st.lists(st.integers(0, 200), max_size=2), st.integers(0, 255), st.data())
def test_a_damaged_file_is_reported_and_never_gives_other_lines(
    lines: list[bytes], cuts: list[int], flip: int, data: st.DataObject
) -> None:
    content = b"\n".join(lines)
    packed = bytearray(members(content, cuts))
    assert content_of(packed) == content
    place = data.draw(st.integers(1, len(packed) - 1))
    if flip:
        packed[place] ^= flip
    else:
        del packed[place:]
    try:
        found = content_of(packed)
    except InputError as error:
        assert "cannot be read after line " in str(error) and "; check --source, or fetch" in str(error)
    else:  # a byte that carries no content, or cut between two members: the standard library is the judge
        assert found == (content if flip else gzip.decompress(packed))


@pytest.mark.parametrize(
    "base",
    ["nowhere", "a\0b", "ftp://127.0.0.1/x", "http://127.0.0.1:99999/", "http://", "http://a..b/", "http://[::1/x"],
)  # fmt: skip
def test_a_useless_source_is_one_error_at_once(base: str) -> None:
    with pytest.raises(InputError, match=r"check .*--source"):
        list(review_file(base).lines())


def test_bad_lines_are_tolerated_up_to_a_number_and_remembered() -> None:
    good, file = json.dumps(RECORD).encode(), review_file("x")
    parsed = list(file.reviews(enumerate([b"x", good, b"[]", good]), 2))
    assert [review and review.review_id for review in parsed] == [None, "r"] * 2
    assert [problem.split(", ")[1][:6] for problem in file.bad_lines] == ["line 1", "line 3"]
    with pytest.raises(InputError, match="bad line 3 of this file: --max-bad-lines leaves some out"):
        list(file.reviews([(4, b"")], 2))


def test_the_results_are_in_order_and_a_failure_ends_the_other_genres(tmp_path: Path) -> None:
    for genre in ("poetry", "romance"):
        write_reviews(tmp_path, genre, reviews(genre, 30))
    results = read_genres(str(tmp_path), ["romance", "poetry"], lambda file: len(list(file.lines(9))))
    counts = [(genre, file.count, n) for genre, (file, n) in results.items()]
    assert counts == [("romance", 9, 9), ("poetry", 9, 9)]
    started = time.monotonic()
    with FileServer(tmp_path) as server, pytest.raises(InputError, match="HTTP 404"):
        server.answers |= {gz("poetry"): Answer(404, b""), gz("romance"): Answer(503, b"", retry_after="9")}
        read_genres(server.url, ["romance", "poetry"], lambda file: list(file.lines()))
    assert time.monotonic() - started < GRACE  # they end by themselves

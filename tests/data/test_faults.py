"""Whole splits through random faults: what an undisturbed run gives, or the one right error."""

import gzip
import json
import random
import re
import shutil
import time
from itertools import pairwise
from pathlib import Path

import pytest

from goodreads.common.errors import InputError
from goodreads.data import resumable_http
from goodreads.data.split_builder import build_split
from tests.data.reviews import gz, reviews, split_bytes, two_genres
from tests.helpers import temporary_files
from tests.loopback import Answer, FileServer

LINES = 150
PAGE = b"<html><head><title>Bad Gateway</title></head></html>"
SHAPES = ["plain", "members", "CRLF", "BOM", "surrogates", "long line", "no last newline"]
OFTEN = "attempt 7; check the network"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_http, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(resumable_http, "TIMEOUT", (2, 0.15))


def write_file(folder: Path, genre: str, rng: random.Random) -> bytes:
    """Write a genre's file in one of the shapes that such a file may have."""
    shape, rows = rng.choice(SHAPES), reviews(genre, LINES)
    for row in rows:
        row["review_text"] = "".join(rng.choices('abcdefgh xyz é\u2028\n\t"\\', k=rng.randint(0, 900)))
    if shape == "long line":
        rows[rng.randrange(LINES)]["review_text"] = "x" * 5_000_000
    if shape == "surrogates":
        rows[rng.randrange(LINES)]["review_text"] = "half a pair: \ud83d, a pair: \ud83d\ude00"
    newline = "\r\n" if shape == "CRLF" else "\n"
    text = newline.join(map(json.dumps, rows)) + ("" if shape == "no last newline" else newline)
    data = text.encode("utf-8-sig" if shape == "BOM" else "utf-8")
    cuts = sorted(rng.randrange(len(data)) for _ in range(3)) if shape == "members" else []
    packed = b"".join(gzip.compress(data[a:b], 6) for a, b in pairwise([0, *cuts, len(data)]))
    (folder / gz(genre)).write_bytes(packed)
    return packed


def passing_fault(rng: random.Random, size: int) -> Answer:
    """A fault that reading on cures."""
    at, busy = rng.randrange(size), rng.choice([429, 500, 502, 503])
    return rng.choice(
        [
            Answer(cut_at=at),
            Answer(cut_at=at, ranges=False),
            Answer(stall_at=at, stall=0.4),
            Answer(busy, b"<html>busy</html>", retry_after=rng.choice(["", "0"])),
            Answer(extra_length=rng.randint(1, 9999)),
        ]
    )


def lasting_fault(rng: random.Random, body: bytes) -> tuple[Answer, list[str]]:
    """A fault that spoils the file, and the errors of which one must tell where it is noticed."""
    at, flipped = rng.randrange(1, len(body)), bytearray(body)
    flipped[at] ^= 1 << rng.randrange(8)
    damaged, partly_read = "cannot be read after line", [OFTEN, "changed", "HTTP 416"]
    return rng.choice(
        [
            (Answer(200, PAGE), ["Not a gzipped file", *partly_read]),
            (Answer(200, b""), ["has 0 reviews", *partly_read]),
            (Answer(truncate_at=at), [damaged, *partly_read]),
            (Answer(200, bytes(flipped)), [damaged, *partly_read]),
            (Answer(extra_length=-at), [damaged, "has 0 reviews", *partly_read]),
            (Answer(404, b"gone"), ["HTTP 404", OFTEN]),
            (Answer(etag='"two"'), ["changed while it was read", OFTEN]),
        ]
    )


@pytest.mark.parametrize("seed", range(60))
def test_random_faults_give_the_undisturbed_split_or_the_right_error(tmp_path: Path, seed: int) -> None:
    rng, allowed = random.Random(seed), list[str]()
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    with FileServer(folder) as server:
        for genre in ("poetry", "romance"):
            body = write_file(folder, genre, rng)
            answers = [passing_fault(rng, len(body)) for _ in range(rng.randint(0, 7))]
            allowed += [OFTEN] * (len(answers) > 6)
            if rng.random() < 0.3:
                answer, errors = lasting_fault(rng, body)
                answers, allowed = [*answers, *[answer] * 50], allowed + errors
            server.answers[gz(genre)] = answers
        # read to the end, so that the CRC is checked
        build_split(two_genres(folder, None, 40), tmp_path / "expected")
        started = time.monotonic()
        try:
            build_split(two_genres(server.url, None, 40), out)
        except InputError as error:
            assert re.search("|".join(allowed) or "no error", str(error)), (str(error), allowed)
            assert not (out / "manifest.json").exists()
        else:
            assert split_bytes(out) == split_bytes(tmp_path / "expected")
        assert time.monotonic() - started < 30
    assert temporary_files(tmp_path) == []
    shutil.rmtree(tmp_path)

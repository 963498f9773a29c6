"""Whole splits through random faults: what an undisturbed run gives, or the one right error."""

import gzip
import json
import random
import re
import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from goodreads.common.errors import InputError
from goodreads.data import resumable_http
from goodreads.data.resumable_http import Limits
from goodreads.data.sampling import Parameters
from goodreads.data.split_builder import build_split
from tests.data.reviews import gz, split_bytes
from tests.helpers import temporary_files
from tests.loopback import Answer, FileServer

GENRES = ("poetry", "romance")
LINES = 150
PAGE = b"<html><head><title>Bad Gateway</title></head></html>"
LIMITS = Limits(timeout=0.15, retries=4)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_http, "FIRST_PAUSE", 0.002)


def review(rng: random.Random, genre: str, number: int, length: int) -> dict[str, Any]:
    text = "".join(rng.choice('abcdefghij klmnopqrstuvwxyz é\u2028\n\t"\\') for _ in range(length))
    return {
        "user_id": "u", "book_id": f"b{number}", "review_id": f"{genre}-{number}", "review_text": text,
        "rating": rng.randint(0, 5),
    }  # fmt: skip


def write_file(folder: Path, genre: str, rng: random.Random) -> None:
    """A genre's file in one of the shapes that such a file may have."""
    shape = rng.choice(["plain", "members", "CRLF", "BOM", "surrogates", "long line", "no last newline"])
    rows = [review(rng, genre, n, rng.randint(0, 900)) for n in range(LINES)]
    if shape == "long line":
        rows[rng.randrange(LINES)]["review_text"] = "x" * 5_000_000
    if shape == "surrogates":
        rows[rng.randrange(LINES)]["review_text"] = "half a pair: \ud83d, a pair: \ud83d\ude00"
    newline = "\r\n" if shape == "CRLF" else "\n"
    text = newline.join(json.dumps(row) for row in rows) + ("" if shape == "no last newline" else newline)
    data = text.encode()
    if shape == "BOM":
        data = b"\xef\xbb\xbf" + data
    cuts = sorted(rng.randrange(len(data)) for _ in range(3)) if shape == "members" else []
    edges = [0, *cuts, len(data)]
    packed = b"".join(gzip.compress(data[a:b], 6) for a, b in pairwise(edges))
    (folder / gz(genre)).write_bytes(packed)


def passing_fault(rng: random.Random, size: int) -> Answer:
    """A fault that reading on cures."""
    at = rng.randrange(size)
    return rng.choice(
        [
            Answer(cut_at=at),
            Answer(cut_at=at, ranges=False),
            Answer(stall_at=at, stall=0.4),
            Answer(rng.choice([429, 500, 502, 503]), b"<html>busy</html>", retry_after=rng.choice(["", "0"])),
            Answer(extra_length=rng.randint(1, 9999)),
        ]
    )


def lasting_fault(rng: random.Random, body: bytes) -> tuple[Answer, str]:
    """A fault that spoils the file, and what the error must say where it is noticed."""
    at = rng.randrange(1, len(body))
    flipped = bytearray(body)
    flipped[at] ^= 1 << rng.randrange(8)
    return rng.choice(
        [
            (Answer(200, PAGE), "Not a gzipped file"),
            (Answer(200, b""), "has 0 reviews"),
            (Answer(truncate_at=at), "cannot be read after line"),
            (Answer(200, bytes(flipped)), "cannot be read after line"),
            (Answer(extra_length=-rng.randrange(1, len(body))), "cannot be read after line|has 0 reviews"),
            (Answer(404, b"gone"), "HTTP 404"),
        ]
    )


def schedule(rng: random.Random, body: bytes) -> tuple[Any, list[str]]:
    """The answers to one genre's requests, and the errors that they may lead to."""
    answers = [passing_fault(rng, len(body)) for _ in range(rng.randint(0, 5))]
    errors = ["attempt 5; check the network"] if len(answers) > 4 else []
    draw = rng.random()
    if draw < 0.2:
        spoilt, error = lasting_fault(rng, body)
        # answered for good, and under the same name to whoever has read a part
        return [*answers, *[spoilt] * 50], [
            *errors,
            error,
            "attempt 5; check the network",
            "changed",
            "HTTP 416",
        ]
    if draw < 0.3:
        return [*answers, *[Answer(etag='"two"')] * 50], [*errors, "changed while it was read"]
    return answers, errors


@pytest.mark.parametrize("seed", range(60))
def test_random_faults_give_the_undisturbed_split_or_the_right_error(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for genre in GENRES:
        write_file(folder, genre, rng)
    # read to the end, so that the CRC is checked
    build_split(Parameters(str(folder), GENRES, None, 40, 30), tmp_path / "expected")
    plans = {gz(genre): schedule(rng, (folder / gz(genre)).read_bytes()) for genre in GENRES}
    allowed = [error for _, errors in plans.values() for error in errors]
    with FileServer(folder, answers={name: plan[0] for name, plan in plans.items()}) as server:
        started = time.monotonic()
        try:
            build_split(Parameters(server.url, GENRES, None, 40, 30), out, limits=LIMITS)
        except InputError as error:
            assert any(re.search(pattern, str(error)) for pattern in allowed), (str(error), allowed)
            assert any(genre in str(error) for genre in GENRES)
            assert not (out / "manifest.json").exists()
        else:
            assert split_bytes(out) == split_bytes(tmp_path / "expected")
        assert time.monotonic() - started < 30
    assert temporary_files(tmp_path) == []
    shutil.rmtree(tmp_path)

"""Reading through broken connections: what arrives is what an undisturbed read gives, or one clear error."""

import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Event, Timer

import pytest

from goodreads.common.errors import InputError
from goodreads.data import resumable_http
from goodreads.data.resumable_http import Download
from tests.loopback import Answer, FileServer

BODY = random.Random(1).randbytes(400_000)
CUT = Answer(cut_at=100_000)
SETTINGS = "http_proxy https_proxy all_proxy no_proxy REQUESTS_CA_BUNDLE CURL_CA_BUNDLE".split()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_http, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(resumable_http, "TIMEOUT", (2, 0.3))
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "file").write_bytes(BODY)
    with FileServer(tmp_path) as running:
        yield running


def fetch(url: str) -> bytes:
    with Download(url, Event()) as file:
        body = file.readall()
        assert file.position == len(body)
    return body


@pytest.mark.parametrize(
    ("answers", "positions"),
    [
        ([CUT, Answer(cut_at=50_000)], [0, 100_000, 150_000]),
        ([Answer(cut_at=10)] * 8, list(range(0, 90, 10))),
        ([Answer(stall_at=100_000, stall=5)], [0, 100_000]),
        ([CUT, Answer(ranges=False)], [0, 100_000]),
        ([CUT, Answer(ranges=False, cut_at=70_000), Answer(cut_at=10)], [0, 100_000, 100_000, 100_010]),
        ([Answer(extra_length=100_000)], [0, 400_000]),
        ([Answer(503, b"", retry_after="²"), Answer(503, b"", retry_after="Thu, 99 Foo 9999")], [0, 0, 0]),
        *(([CUT, Answer(status, b"")], [0, 100_000, 100_000]) for status in (408, 429, 500, 502, 503, 504)),
    ],
)
def test_reading_continues_at_the_byte_reached(
    server: FileServer, answers: list[Answer], positions: list[int]
) -> None:
    server.answers["file"] = answers
    started = time.monotonic()
    assert fetch(server.url + "file") == BODY
    assert [request.range for request in server.requests] == [f"bytes={n}-" if n else "" for n in positions]
    assert time.monotonic() - started < 4


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_a_busy_server_is_not_asked_again_before_it_wants(server: FileServer, form: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server.answers["file"] = [Answer(503, b"later", retry_after="1" if form == "seconds" else date)]
    started = time.monotonic()
    assert fetch(server.url + "file") == BODY
    assert time.monotonic() - started > 0.5


@pytest.mark.parametrize(
    ("answers", "fragment", "requests"),
    [
        ([CUT, Answer(200, b"short")], "HTTP 416 .*; check --source", 2),
        ([CUT, Answer(etag='"two"')], "changed while it was read, at byte 100,000", 2),
        ([Answer(503, b"")] * 9, "HTTP 503 Service Unavailable at byte 0, attempt 7; check the network", 7),
        ([Answer(403, b"no")], "HTTP 403 Forbidden; check --source", 1),
        ([Answer(416, b"no")], "HTTP 416 .*; check --source", 1),
    ],
)
def test_what_a_new_attempt_cannot_cure_is_one_error(
    server: FileServer, answers: list[Answer], fragment: str, requests: int
) -> None:
    server.answers["file"] = list(answers)
    with pytest.raises(InputError, match=fragment):
        fetch(server.url + "file")
    assert len(server.requests) == requests


def test_the_proxy_of_the_environment_is_used(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)  # it takes the absolute address as a path
    assert fetch("http://far.invalid/byGenre/file") == BODY
    assert server.requests[0].path == "http://far.invalid/byGenre/file"


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("http_proxy", "", "Connection refused at byte 0, attempt 7; check the network"),
        ("http_proxy", "gopher://127.0.0.1:70", "attempt .; check"),
        ("http_proxy", "foo", "attempt .; check"),
        ("http_proxy", "socks5://127.0.0.1:1080", "attempt 1; check"),
        ("REQUESTS_CA_BUNDLE", "/no/such/file.pem", "/no/such/file.pem"),
        ("REQUESTS_CA_BUNDLE", __file__, "attempt .; check .*REQUESTS_CA_BUNDLE"),
    ],
)
def test_no_server_and_odd_settings_are_one_error(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    monkeypatch.setenv(variable, value)
    url = f"{'http' if variable == 'http_proxy' else 'https'}://127.0.0.1:9/x"
    with pytest.raises(InputError, match=f"^{url}: .*{said}"):
        fetch(url)


def test_a_stop_ends_a_wait(server: FileServer) -> None:
    server.answers["file"] = Answer(503, b"later", retry_after="500")
    stop = Event()
    Timer(0.2, stop.set).start()
    with Download(server.url + "file", stop) as file, pytest.raises(InputError, match="reading was stopped"):
        file.read(1)

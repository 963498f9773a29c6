"""Reading through broken connections: what arrives is what an undisturbed read gives, or one clear error."""

import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Event

import pytest

from goodreads.common.errors import InputError
from goodreads.data import resumable_http as download
from goodreads.data.resumable_http import Download, Limits
from tests.loopback import Answer, FileServer

BODY = random.Random(1).randbytes(400_000)


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "FIRST_PAUSE", 0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "file").write_bytes(BODY)
    with FileServer(tmp_path) as running:
        yield running


def fetch(server: FileServer, limits: Limits = Limits()) -> bytes:  # noqa: B008
    return b"".join(Download(server.url + "file", Event(), limits).chunks())


def test_a_cut_connection_is_taken_up_at_the_byte_reached(server: FileServer) -> None:
    server.answers["file"] = [Answer(cut_at=100_000), Answer(cut_at=50_000)]
    assert fetch(server) == BODY
    server.wait(active=0)
    assert [r.range for r in server.requests] == ["", "bytes=100000-", "bytes=150000-"]
    assert sum(r.sent for r in server.requests) == len(BODY)


def test_a_server_without_ranges_sends_anew_and_nothing_is_read_twice(server: FileServer) -> None:
    server.answers["file"] = [Answer(cut_at=100_000), Answer(ranges=False)]
    assert fetch(server) == BODY


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_no_earlier_than_it_wants(server: FileServer, status: int) -> None:
    server.answers["file"] = [Answer(cut_at=9_999), Answer(status, b"later", retry_after="1")]
    started = time.monotonic()
    assert fetch(server) == BODY
    assert time.monotonic() - started >= 1


def test_retry_after_may_be_a_date(server: FileServer) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    server.answers["file"] = [Answer(503, b"later", retry_after=date)]
    started = time.monotonic()
    assert fetch(server) == BODY
    assert 1 < time.monotonic() - started < 10


def test_a_server_that_asks_for_hours_is_not_waited_for(server: FileServer) -> None:
    server.answers["file"] = Answer(503, b"later", retry_after="7200")
    with pytest.raises(InputError, match="the server asks to come back in 7,200 s"):
        fetch(server)
    assert len(server.requests) == 1


def test_a_stalled_connection_is_given_up_and_taken_up_where_it_was(server: FileServer) -> None:
    server.answers["file"] = [Answer(stall_at=100_000, stall=5)]
    started = time.monotonic()
    assert fetch(server, Limits(timeout=1)) == BODY
    assert time.monotonic() - started < 4
    assert server.requests[1].range == "bytes=100000-"


@pytest.mark.parametrize("extra", [1, 100_000])
def test_a_content_length_that_promises_too_much_does_no_harm(server: FileServer, extra: int) -> None:
    server.answers["file"] = [Answer(extra_length=extra)]
    assert fetch(server) == BODY


def test_a_file_that_became_shorter_is_an_error(server: FileServer) -> None:
    server.answers["file"] = [Answer(cut_at=100_000), Answer(200, b"short")]
    with pytest.raises(InputError, match="changed while it was read, at byte 100,000"):
        fetch(server)


def test_the_proxy_of_the_environment_is_used(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url)  # it takes the absolute address as a path
    monkeypatch.setenv("no_proxy", "")
    assert b"".join(Download("http://far.invalid/byGenre/file", Event()).chunks()) == BODY
    assert server.requests[0].path == "http://far.invalid/byGenre/file"


def test_a_file_that_changed_meanwhile_is_an_error(server: FileServer) -> None:
    server.answers["file"] = [Answer(cut_at=100_000), Answer(etag='"two"')]
    with pytest.raises(InputError, match="changed while it was read, at byte 100,000"):
        fetch(server)


def test_it_gives_up_after_failures_in_a_row_without_progress(server: FileServer) -> None:
    server.answers["file"] = Answer(503, b"down")
    with pytest.raises(InputError, match=r"HTTP 503 Service Unavailable at byte 0, 5 times"):
        fetch(server)
    assert len(server.requests) == Limits().retries + 1


def test_what_will_not_pass_is_not_tried_again(server: FileServer) -> None:
    server.answers["file"] = Answer(403, b"no")
    with pytest.raises(InputError, match="HTTP 403 Forbidden; check --source"):
        fetch(server)
    assert len(server.requests) == 1


@pytest.mark.parametrize("seed", range(40))
def test_random_faults_give_the_same_bytes_or_an_error(server: FileServer, seed: int) -> None:
    rng = random.Random(seed)
    faults = []
    for _ in range(rng.randint(1, 12)):
        kind = rng.choice(["cut", "cut", "cut anew", "busy"])
        if kind == "busy":
            faults.append(Answer(rng.choice([429, 500, 503]), b"<html>busy</html>"))
        else:
            faults.append(Answer(cut_at=rng.randint(0, 200_000), ranges=kind != "cut anew"))
    server.answers["file"] = faults
    try:
        assert fetch(server) == BODY
    except InputError as error:
        assert "5 times" in str(error)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and a certificate for 127.0.0.1 in one file."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed: no certificate for a TLS server")
    path = tmp_path / "server.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", path, "-out", tmp_path / "certificate.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    path.write_bytes(path.read_bytes() + (tmp_path / "certificate.pem").read_bytes())
    return path


def test_https_is_resumed_too_and_an_unknown_certificate_is_refused(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(BODY)
    with FileServer(tmp_path, answers={"file": [Answer(cut_at=100_000)]}, certificate=certificate) as server:
        assert server.url.startswith("https://")
        with pytest.raises(InputError, match=r"certificate verify failed.*REQUESTS_CA_BUNDLE"):
            fetch(server)
        assert server.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
        assert fetch(server) == BODY
        assert [r.range for r in server.requests] == ["", "bytes=100000-"]

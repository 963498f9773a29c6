"""Reading through broken connections: what arrives is what an undisturbed read gives, or one clear error."""

import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from threading import Event, Timer

import pytest

from goodreads.common.errors import InputError
from goodreads.data import resumable_http
from goodreads.data.resumable_http import Download, Limits
from tests.loopback import Answer, FileServer

BODY = random.Random(1).randbytes(400_000)
NO_LIMITS = Limits()


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable_http, "FIRST_PAUSE", 0.01)
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
    ):
        for variable in (name, name.upper()):
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "file").write_bytes(BODY)
    with FileServer(tmp_path) as running:
        yield running


def fetch(url: str, limits: Limits = NO_LIMITS) -> bytes:
    with Download(url, Event(), limits) as file:
        body = file.readall()
        assert file.position == len(body)
    return body


def test_a_cut_connection_is_continued_at_the_byte_reached(server: FileServer) -> None:
    server.answers["file"] = [Answer(cut_at=100_000), Answer(cut_at=50_000)]
    assert fetch(server.url + "file") == BODY
    server.wait(active=0)
    assert [r.range for r in server.requests] == ["", "bytes=100000-", "bytes=150000-"]
    assert sum(r.sent for r in server.requests) == len(BODY)


@pytest.mark.parametrize(
    "answers",
    [
        [Answer(cut_at=100_000), Answer(ranges=False)],
        [Answer(cut_at=100_000), Answer(ranges=False, cut_at=70_000), Answer(cut_at=10)],
        [Answer(extra_length=1)],
        [Answer(extra_length=100_000)],
        [Answer(503, b"later", retry_after="²"), Answer(503, b"later", retry_after="Thu, 99 Foo 9999")],
    ],
    ids=["no ranges", "no ranges, cut again", "one byte promised", "many promised", "odd Retry-After"],
)
def test_an_odd_server_does_no_harm(server: FileServer, answers: list[Answer]) -> None:
    server.answers["file"] = answers
    assert fetch(server.url + "file") == BODY


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_and_not_before_it_wants(server: FileServer, status: int) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    wait = {429: "1", 503: date}.get(status, "0")
    server.answers["file"] = [Answer(cut_at=9_999), Answer(status, b"later", retry_after=wait)]
    started = time.monotonic()
    assert fetch(server.url + "file") == BODY
    assert time.monotonic() - started > (0.5 if wait != "0" else 0)


def test_a_stalled_connection_is_dropped_and_continued(server: FileServer) -> None:
    server.answers["file"] = [Answer(stall_at=100_000, stall=5)]
    started = time.monotonic()
    assert fetch(server.url + "file", Limits(timeout=0.3)) == BODY
    assert time.monotonic() - started < 4
    assert server.requests[1].range == "bytes=100000-"


@pytest.mark.parametrize(
    ("answers", "fragment", "requests"),
    [
        ([Answer(cut_at=100_000), Answer(200, b"short")], "HTTP 416 .*; check --source", 2),
        ([Answer(cut_at=100_000), Answer(etag='"two"')], "changed while it was read, at byte 100,000", 2),
        (
            [Answer(503, b"down")] * 9,
            "HTTP 503 Service Unavailable at byte 0, attempt 5; check the network",
            5,
        ),
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
    ("variable", "value"),
    [
        ("http_proxy", "gopher://127.0.0.1:70"),
        ("http_proxy", "foo"),
        ("http_proxy", "socks5://127.0.0.1:1080"),
        ("REQUESTS_CA_BUNDLE", "/no/such/file.pem"),
        ("REQUESTS_CA_BUNDLE", "{folder}/garbage.pem"),
    ],
)
def test_an_odd_environment_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    (tmp_path / "garbage.pem").write_text("garbage")
    monkeypatch.setenv(variable, value.format(folder=tmp_path))
    scheme = "http" if variable == "http_proxy" else "https"
    started = time.monotonic()
    with pytest.raises(InputError, match=f"^{scheme}://127.0.0.1:9/x: .*(check|{variable})"):
        fetch(f"{scheme}://127.0.0.1:9/x", Limits(retries=0))
    assert time.monotonic() - started < 5


def test_a_server_that_is_down_is_one_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        with pytest.raises(InputError, match="Connection refused at byte 0, attempt 5; check the network"):
            fetch(f"http://127.0.0.1:{free.getsockname()[1]}/x")


def test_a_stop_ends_a_wait(server: FileServer) -> None:
    server.answers["file"] = Answer(503, b"later", retry_after="500")
    stop = Event()
    Timer(0.2, stop.set).start()
    with Download(server.url + "file", stop) as file, pytest.raises(InputError, match="reading was stopped"):
        file.read(1)


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


def test_https_is_continued_too_and_an_unknown_certificate_is_refused(
    tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(BODY)
    with FileServer(tmp_path, answers={"file": [Answer(cut_at=100_000)]}, certificate=certificate) as server:
        assert server.url.startswith("https://")
        with pytest.raises(InputError, match=r"certificate verify failed.*REQUESTS_CA_BUNDLE"):
            fetch(server.url + "file")
        assert server.requests == []
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "certificate.pem"))
        assert fetch(server.url + "file") == BODY
        assert [r.range for r in server.requests] == ["", "bytes=100000-"]

"""An HTTP body as a file object that survives broken connections: it continues at the byte it had reached."""

import io
import random
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import Event
from typing import TYPE_CHECKING

import requests
import urllib3

from goodreads.common.errors import InputError
from goodreads.common.progress import log

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_TIMEOUT = 10.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled each time, up to half of it taken off at random
LONGEST_WAIT = 600.0  # seconds that a server may ask for by Retry-After
BUSY = {408, 429, 500, 502, 503, 504}
HEADERS = {"User-Agent": "goodreads-genre-classifier/1 (python-requests)", "Accept-Encoding": "identity"}
# what a new connection may cure, and what it cannot although requests calls it a ConnectionError
PASSING = (
    *(requests.ConnectionError, requests.Timeout),
    *(urllib3.exceptions.ProtocolError, urllib3.exceptions.TimeoutError, urllib3.exceptions.SSLError),
)
FINAL = (urllib3.exceptions.LocationValueError, urllib3.exceptions.URLSchemeUnknown)


@dataclass(frozen=True)
class Limits:
    """How long to be patient.

    Attributes:
        timeout: seconds without a byte after which a connection counts as broken.
        retries: attempts in a row that may fail without a new byte.

    Raises:
        InputError: one of them is out of range.
    """

    timeout: float = 60.0
    retries: int = 4

    def __post_init__(self) -> None:
        if not (0 < self.timeout <= 86_400 and 0 <= self.retries <= 10_000):
            raise InputError("--timeout takes 1 to 86400 seconds, and --retries 0 to 10000")


class _Broken(Exception):
    """A failure that may pass: the reason, and how many seconds the server asks to wait."""


class Download(io.RawIOBase):
    """The bytes of a URL as they are on the server (nothing is decompressed), for reading once.

    After a cut, a stall or a busy answer it continues with a Range request, guarded by If-Range (RFC 9110,
    section 13.1.5); where a server ignores Range, what is known is skipped. Proxy environment variables are
    respected.

    Attributes:
        position: bytes read so far.
        retries: connections that broke so far.
    """

    def __init__(self, url: str, stop: Event, limits: Limits = Limits()) -> None:
        """Connect at the first read; when ``stop`` is set, waits and reads end in an InputError."""
        self.url, self.position, self.retries = url, 0, 0
        self._stop, self._limits = stop, limits
        self._response: requests.Response | None = None
        self._version, self._skip = "", 0  # strong ETag or else Last-Modified; bytes that are sent again
        self._failures, self._reached, self._complete = 0, 0, False

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what has arrived, at least one byte unless the body has ended.

        Raises:
            InputError: the file changed, or the download failed for good or too often in a row.
        """
        view = memoryview(buffer).cast("B")
        while not self._complete:
            if self._stop.is_set():
                raise InputError(f"{self.url}: reading was stopped")
            try:
                chunk = self._read(len(view))
            except InputError:
                raise
            except Exception as error:
                self._retry(error if isinstance(error, _Broken) else self._judge(error))
                continue
            self._complete = not chunk
            if not self._skip:
                view[: len(chunk)] = chunk
                self.position += len(chunk)
                return len(chunk)
            if not chunk:
                raise InputError(f"{self.url} is shorter than what was read of it; run again")
            self._skip -= len(chunk)
        return 0

    def close(self) -> None:
        """Hang up."""
        if self._response is not None:
            self._response.close()
        super().close()

    def _read(self, most: int) -> bytes:
        if self._response is None:
            headers = HEADERS
            if self.position:
                guard = {"If-Range": self._version} if self._version else {}
                headers = HEADERS | {"Range": f"bytes={self.position}-"} | guard
            timeout = (CONNECT_TIMEOUT, self._limits.timeout)
            self._response = requests.get(self.url, stream=True, timeout=timeout, headers=headers)
            self._skip = 0
            if self._ended(self._response):
                return b""
        # not decoded: the file is gzip itself
        chunk: bytes = self._response.raw.read1(min(most, self._skip or most), decode_content=False)
        return chunk

    def _ended(self, response: requests.Response) -> bool:
        """Judge an answer; whether the body ends where we stand, because its Content-Length was too large."""
        status, headers = response.status_code, response.headers
        place = f"HTTP {status} {response.reason}"
        if status in BUSY:
            raise _Broken(place, _seconds(headers.get("Retry-After", "")))
        span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if status == 416 and self.position and total == str(self.position):
            return True
        if status not in (200, 206) and not (status == 416 and self.position):
            raise InputError(f"{self.url}: {place}; check --source")
        # a weak ETag says nothing about bytes
        etag = headers.get("ETag", "")
        version = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
        if self.position and (status == 416 or version != self._version):
            raise InputError(f"{self.url} changed while it was read, at byte {self.position:,}; run again")
        if status == 206 and span.partition("-")[0] != str(self.position):
            raise InputError(f"{self.url}: asked from byte {self.position:,} and got {span or 'no range'}")
        self._version = version
        self._skip = self.position if status == 200 else 0
        return False

    def _judge(self, error: Exception) -> _Broken:
        """What to do about an exception of requests, urllib3, ssl or the socket; final ones are raised."""
        root: BaseException = error
        while (cause := root.__cause__ or root.__context__) is not None:
            root = cause
        reason = f"{type(root).__name__}: {root}"
        if isinstance(root, ssl.SSLCertVerificationError):
            raise InputError(f"{self.url}: {reason}; REQUESTS_CA_BUNDLE names trusted ones") from error
        passing = isinstance(error, PASSING) or (isinstance(error, OSError) and error.errno is not None)
        if not passing or isinstance(root, FINAL):
            advice = "check --source and the environment's settings of proxies and certificates"
            raise InputError(f"{self.url}: {reason}; {advice}") from error
        return _Broken(reason, 0.0)

    def _retry(self, broken: _Broken) -> None:
        """Hang up, and wait before the next attempt, or give up."""
        if self._response is not None:
            self._response.close()
        self._response = None
        self._failures = 1 if self.position > self._reached else self._failures + 1
        self._reached = self.position
        self.retries += 1
        reason, after = broken.args
        place = f"{self.url}: {reason} at byte {self.position:,}"
        if self._failures > self._limits.retries:
            times = "once" if self._failures == 1 else f"{self._failures} times"
            raise InputError(f"{place}, {times}; check the network and --source, then run again") from broken
        if after > LONGEST_WAIT:
            raise InputError(f"{place}; the server asks to come back in {after:,.0f} s") from broken
        pause = min(FIRST_PAUSE * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        log.warning("%s; trying again in %.1f s", place, max(pause, after))
        self._stop.wait(max(pause, after))


def _seconds(retry_after: str) -> float:
    """Retry-After in seconds: a number or a date (RFC 9110, section 10.2.3); 0 for anything else."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0

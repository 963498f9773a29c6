"""An HTTP body as a file object that survives broken connections: it continues at the byte it had reached."""

import io
import random
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import Event
from typing import TYPE_CHECKING, NoReturn

import requests
import urllib3

from goodreads.common.errors import InputError
from goodreads.common.progress import log

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CONNECT_TIMEOUT = 10.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled each time, up to half of it taken off at random
LONGEST_WAIT = 600.0  # seconds that a server may ask for by Retry-After
LONGEST_TIMEOUT, MOST_RETRIES = 86_400, 10_000
BUSY = {408, 429, 500, 502, 503, 504}
USER_AGENT = "goodreads-genre-classifier/1 (python-requests)"
PASSING = (  # what a new connection may cure
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.ProtocolError,
    urllib3.exceptions.TimeoutError,
    urllib3.exceptions.SSLError,
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
        if not 0 < self.timeout <= LONGEST_TIMEOUT:
            raise InputError(f"--timeout {self.timeout} is not between 1 and {LONGEST_TIMEOUT:,} seconds")
        if not 0 <= self.retries <= MOST_RETRIES:
            raise InputError(f"--retries {self.retries} is not between 0 and {MOST_RETRIES:,}")


class _Broken(Exception):
    """A failure that may pass; ``after`` is how many seconds the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


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
        self._version, self._size = "", -1  # strong ETag or else Last-Modified; bytes in all
        self._response: requests.Response | None = None
        self._skip = 0  # bytes that are sent again
        self._failures, self._reached, self._complete = 0, 0, False

    def readable(self) -> bool:
        """Always true."""
        return True

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
                if self._response is None:
                    self._connect()
                    continue
                # decoding is off: the file is gzip itself
                chunk = self._response.raw.read1(
                    min(len(view), self._skip or len(view)), decode_content=False
                )
            except _Broken as broken:
                self._retry(broken)
            except Exception as error:
                self._retry(self._judge(error))
            else:
                if not chunk and self._skip:
                    raise InputError(f"{self.url} is shorter than what was read of it; run again")
                self._complete = not chunk
                if not self._skip:
                    view[: len(chunk)] = chunk
                    self.position += len(chunk)
                    return len(chunk)
                self._skip -= len(chunk)
        return 0

    def close(self) -> None:
        """Hang up."""
        self._hang_up()
        super().close()

    def _hang_up(self) -> None:
        if self._response is not None:
            with suppress(Exception):  # it may be broken in any way
                self._response.close()
        self._response = None

    def _connect(self) -> None:
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if self.position:
            headers["Range"] = f"bytes={self.position}-"
            headers |= {"If-Range": self._version} if self._version else {}
        timeout = (CONNECT_TIMEOUT, self._limits.timeout)
        self._response = requests.get(self.url, stream=True, timeout=timeout, headers=headers)
        status, answer = self._response.status_code, self._response.headers
        place = f"{self.url}: HTTP {status} {self._response.reason}"
        if status in BUSY:
            raise _Broken(f"HTTP {status} {self._response.reason}", _seconds(answer.get("Retry-After", "")))
        span, _, total = answer.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if status == 416 and self.position:
            # the Content-Length was too large: the body ends here
            self._complete = span.strip() == "*" and _number(total) == self.position
            if not self._complete:
                self._changed()
        elif status not in (200, 206):
            raise InputError(f"{place}; check --source")
        else:
            self._check_version(_number(total if status == 206 else answer.get("Content-Length", "")))
            start = span.partition("-")[0]
            if status == 206 and start != str(self.position):
                raise InputError(
                    f"{self.url}: asked from byte {self.position:,} and got {start or 'no range'}"
                )
            self._skip = self.position if status == 200 else 0

    def _check_version(self, size: int) -> None:
        """Compare the answer's version with that of earlier answers; where neither has one, the size."""
        answer = self._response.headers if self._response is not None else {}
        etag = answer.get("ETag", "")
        # a weak ETag says nothing about bytes
        version = etag if etag and not etag.startswith("W/") else answer.get("Last-Modified", "")
        resized = not version and -1 not in (size, self._size) and size != self._size
        if self.position and (version != self._version or resized):
            self._changed()
        self._version, self._size = version, max(size, self._size)

    def _changed(self) -> NoReturn:
        raise InputError(f"{self.url} changed while it was read, at byte {self.position:,}; run again")

    def _judge(self, error: Exception) -> _Broken:
        """What to do about an exception of requests, urllib3, ssl or the socket; final ones are raised."""
        if isinstance(error, InputError):
            raise error
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
        return _Broken(reason)

    def _retry(self, broken: _Broken) -> None:
        """Wait before the next attempt, or give up."""
        self._hang_up()
        self._failures = 1 if self.position > self._reached else self._failures + 1
        self._reached = self.position
        self.retries += 1
        place = f"{self.url}: {broken} at byte {self.position:,}"
        if self._failures > self._limits.retries:
            times = "once" if self._failures == 1 else f"{self._failures} times"
            raise InputError(f"{place}, {times}; check the network and --source, then run again") from broken
        if broken.after > LONGEST_WAIT:
            raise InputError(f"{place}; the server asks to come back in {broken.after:,.0f} s") from broken
        pause = min(FIRST_PAUSE * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        pause = max(pause, broken.after)
        log.warning("%s; trying again in %.1f s", place, pause)
        self._stop.wait(pause)


def _number(text: str) -> int:
    """A header's number; -1 where it is none."""
    return int(text) if text.isdecimal() and len(text) < 19 else -1


def _seconds(retry_after: str) -> float:
    """Retry-After in seconds: a number or a date (RFC 9110, section 10.2.3); 0 for anything else."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0

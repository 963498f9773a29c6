"""An HTTP body in chunks that survives broken connections: resumed where it broke, not begun anew."""

import random
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from threading import Event
from typing import Any

from goodreads.common.errors import InputError
from goodreads.common.progress import log

CHUNK = 1 << 16  # bytes a read asks for: the most that is read past what is needed
CONNECT_TIMEOUT = 10.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled each time, half of it at random
LONGEST_WAIT = 600.0  # seconds that a server may ask for by Retry-After
BUSY = {408, 429, 500, 502, 503, 504}
USER_AGENT = "goodreads-genre-classifier/1 (python-requests)"


@dataclass(frozen=True)
class Limits:
    """How long to be patient.

    Attributes:
        timeout: seconds without a byte after which a connection counts as broken.
        retries: tries in a row that may fail without a new byte.
    """

    timeout: float = 60.0
    retries: int = 4


class Changed(InputError):
    """The file on the server is not the one whose beginning was read."""


class _Broken(Exception):
    """A failure that may pass; ``after`` is how many seconds the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


class Download:
    """A body on its way.

    Attributes:
        position: bytes that have arrived, those known before included.
        version: the strong ETag or else Last-Modified of what arrives; empty while unknown or not sent.
        size: bytes of the whole body, where the server says.
        retries: connections that broke so far.
        complete: the end of the body was reached.
    """

    def __init__(
        self, url: str, stop: Event, limits: Limits = Limits(), position: int = 0, version: str = ""
    ) -> None:
        """Begin at ``position`` of the body that is called ``version``; ``stop`` ends waits and reading."""
        self.url, self.position, self.version = url, position, version
        self.size: int | None = None
        self.retries, self.complete = 0, False
        self._stop, self._limits = stop, limits

    def chunks(self) -> Generator[bytes, None, None]:
        """The body from ``position`` on as it stands on the server, at most ``CHUNK`` bytes at a time.

        After a cut, a stall or a busy answer it goes on from the byte reached with a Range request, guarded
        by If-Range (RFC 9110, section 13.1.5); a server that ignores Range sends anew, and what is known is
        skipped. Proxy environment variables are respected.

        Raises:
            Changed: the file is another one by now.
            InputError: it failed for good, or once more than ``Limits.retries`` times in a row.
        """
        failures, reached = 0, self.position
        while not self._stop.is_set():
            try:
                yield from self._rest()
                self.complete = True
                return
            except _Broken as broken:
                failures = 1 if self.position > reached else failures + 1
                reached = self.position
                self.retries += 1
                self._pause(broken, failures)

    def _pause(self, broken: _Broken, failures: int) -> None:
        place = f"{self.url}: {broken} at byte {self.position:,}"
        if failures > self._limits.retries:
            times = "once" if failures == 1 else f"{failures} times"
            advice = "check the network and --source, then run again"
            raise InputError(f"{place}, {times}; {advice}") from None
        if broken.after > LONGEST_WAIT:
            raise InputError(f"{place}; the server asks to come back in {broken.after:,.0f} s") from None
        pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        pause = max(pause, broken.after)
        log.warning("%s; going on in %.1f s", place, pause)
        self._stop.wait(pause)

    def _rest(self) -> Generator[bytes, None, None]:
        import requests
        import urllib3

        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if self.position:
            headers["Range"] = f"bytes={self.position}-"
            headers |= {"If-Range": self.version} if self.version else {}
        timeout = (CONNECT_TIMEOUT, self._limits.timeout)
        try:
            with requests.get(self.url, stream=True, timeout=timeout, headers=headers) as response:
                if self._at_end(response):
                    return
                skip = self._check(response)
                # the raw body: the file is gzip itself, and nothing may unpack it on the way
                while chunk := response.raw.read1(min(CHUNK, skip) if skip else CHUNK, decode_content=False):
                    if skip:
                        skip -= len(chunk)
                        continue
                    self.position += len(chunk)
                    yield chunk
                if skip:
                    raise Changed(f"{self.url} is shorter than what was read of it; run again")
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise InputError(f"{self.url}: {error}; check --source") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            root = _root(error)
            reason = f"{type(root).__name__}: {root}"
            if isinstance(root, ssl.SSLCertVerificationError):
                raise InputError(f"{self.url}: {reason}; REQUESTS_CA_BUNDLE names trusted ones") from None
            raise _Broken(reason) from None

    def _at_end(self, response: Any) -> bool:
        """Whether the server says that the body ends where we stand: its Content-Length was wrong."""
        end: str = response.headers.get("Content-Range", "")
        return bool(response.status_code == 416 and end.replace(" ", "") == f"bytes*/{self.position}")

    def _check(self, response: Any) -> int:
        """Judge an answer; the bytes to skip because the server sends anew what is known."""
        headers = response.headers
        if response.status_code in BUSY:
            reason = f"HTTP {response.status_code} {response.reason}"
            raise _Broken(reason, _seconds(headers.get("Retry-After", "")))
        if response.status_code == 416 and self.position:  # the file is shorter by now
            raise Changed(f"{self.url} changed while it was read, at byte {self.position:,}; run again")
        if response.status_code not in (200, 206):
            raise InputError(f"{self.url}: HTTP {response.status_code} {response.reason}; check --source")
        etag = headers.get("ETag", "")
        # a weak ETag does not vouch for bytes
        version = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")
        partial = response.status_code == 206
        span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        length = total if partial else headers.get("Content-Length", "")
        size = int(length) if length.isdigit() else None
        # where nothing names the version, a different size tells the files apart
        other = version != self.version or (not version and size and self.size and size != self.size)
        if self.position and other:
            raise Changed(f"{self.url} changed while it was read, at byte {self.position:,}; run again")
        self.version, self.size = version, size or self.size
        start = span.partition("-")[0]
        if partial and start != str(self.position):
            raise InputError(f"{self.url}: asked from byte {self.position:,} and got {start or 'no range'}")
        return 0 if partial else self.position


def _seconds(retry_after: str) -> float:
    """Retry-After in seconds: a number or a date (RFC 9110, section 10.2.3); 0 for anything else."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0


def _root(error: BaseException) -> BaseException:
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error

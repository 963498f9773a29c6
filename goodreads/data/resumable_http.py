"""An HTTP body as a file object that survives broken connections: it continues at the byte it had reached."""

import io
import random
from dataclasses import dataclass
from threading import Event
from typing import TYPE_CHECKING, Any

import requests
import urllib3

from goodreads.common.errors import InputError
from goodreads.common.progress import log

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 16  # bytes that a read gives at most, and so the most that is read past what is needed
CONNECT_TIMEOUT, LONGEST_TIMEOUT = 10.0, 86_400.0  # seconds; sockets take no more than some weeks
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled each time, up to half of it taken off at random
LONGEST_WAIT = 600  # seconds, where a server asks for more by Retry-After
BUSY = {408, 429, 500, 502, 503, 504}
HEADERS = {"User-Agent": "goodreads-genre-classifier/1 (python-requests)", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Limits:
    """How long to be patient.

    Attributes:
        timeout: seconds without a byte after which a connection counts as broken.
        retries: attempts in a row that may fail without a new byte.
    """

    timeout: float = 60.0
    retries: int = 4


class Download(io.RawIOBase):
    """The bytes of a URL as they are on the server (nothing is decompressed), for reading once.

    After a cut, a stall or a busy answer it continues with a Range request, guarded by If-Range (RFC 9110,
    section 13.1.5); where a server ignores Range, what is known is skipped. Proxy environment variables are
    respected.

    Attributes:
        position: bytes read so far.
    """

    def __init__(self, url: str, stop: Event, limits: Limits = Limits()) -> None:
        """Connect at the first read; when ``stop`` is set, waiting to try again ends in an InputError."""
        self.url, self.position = url, 0
        self._stop, self._limits = stop, limits
        self._body: Any = None  # of the current response
        self._version, self._skip = "", 0  # strong ETag or else Last-Modified; bytes that are sent again
        self._failures, self._asked_wait = 0, 0.0  # failures in a row; seconds, by Retry-After

    def readinto(self, buffer: "WriteableBuffer") -> int:
        """Read what has arrived, at least one byte unless the body has ended.

        Raises:
            InputError: the file changed, or the download failed for good or too often in a row.
        """
        view = memoryview(buffer).cast("B")[:CHUNK]
        while True:
            try:
                if self._body is None:
                    self._body = self._connect()
                chunk = self._body.read1(min(len(view), self._skip or len(view)))
            except InputError:
                raise
            except Exception as error:  # of requests, urllib3, ssl or the socket
                self._retry(error)
                continue
            if chunk and self._skip:
                self._skip -= len(chunk)
                continue
            view[: len(chunk)] = chunk
            self.position += len(chunk)
            self._failures = 0
            return len(chunk)

    def tell(self) -> int:
        """Bytes read so far."""
        return self.position

    def close(self) -> None:
        """Hang up."""
        if self._body is not None:
            self._body.close()
        super().close()

    def _connect(self) -> Any:
        """Ask for the rest of the body; a file of it, not decoded, since it is gzip itself."""
        headers, self._skip = dict(HEADERS), 0
        if self.position:
            guard = {"If-Range": self._version} if self._version else {}
            headers |= {"Range": f"bytes={self.position}-"} | guard
        timeout = (CONNECT_TIMEOUT, min(self._limits.timeout, LONGEST_TIMEOUT))
        response = requests.get(self.url, stream=True, timeout=timeout, headers=headers)
        status, place = response.status_code, f"HTTP {response.status_code} {response.reason}"
        if status in BUSY:
            response.close()
            self._asked_wait = (
                urllib3.Retry(retry_after_max=LONGEST_WAIT).get_retry_after(response.raw) or 0.0
            )
            raise OSError(place)
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        if status == 416 and self.position and total == str(self.position):
            return io.BytesIO()  # the Content-Length was too large: the body ends here
        if status not in (200, 206):
            raise InputError(f"{self.url}: {place}; check --source")
        # a weak ETag says nothing about bytes
        etag = response.headers.get("ETag", "")
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        other = self.position and version != self._version
        if other or (status == 206 and span.partition("-")[0] != str(self.position)):
            raise InputError(f"{self.url} changed while it was read, at byte {self.position:,}; run again")
        self._version = version
        self._skip = self.position if status == 200 else 0
        return response.raw

    def _retry(self, error: Exception) -> None:
        """Hang up, and wait before the next attempt; raises InputError if there is none."""
        root: BaseException = error
        while (cause := root.__cause__ or root.__context__) is not None:
            root = cause
        # such as a URL, a proxy or a certificate that is none; of an open connection it can pass
        final = self._body is None and isinstance(root, ValueError)
        if self._body is not None:
            self._body.close()
        self._body, wait, self._asked_wait = None, self._asked_wait, 0.0
        self._failures += 1
        place = f"{self.url}: {type(root).__name__}: {root} at byte {self.position:,}"
        if final or self._failures > self._limits.retries:
            raise InputError(
                f"{place}, attempt {self._failures}; check the network, --source, and the environment's "
                "settings of proxies and certificates (REQUESTS_CA_BUNDLE), then run again"
            ) from error
        pause = min(FIRST_PAUSE * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
        pause = max(pause, wait)
        log.warning("%s; trying again in %.1f s", place, pause)
        if self._stop.wait(pause):
            raise InputError(f"{self.url}: reading was stopped")

"""An HTTP body as a file object that survives broken connections: it continues at the byte it had reached."""

import io
import random
from threading import Event
from typing import TYPE_CHECKING, Any

import requests
import urllib3

from goodreads.common.errors import InputError
from goodreads.common.progress import log

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

CHUNK = 1 << 16  # bytes that a read gives at most, and so the most that is read past what is needed
TIMEOUT = 10.0, 60.0  # seconds to connect; without a byte after which a connection counts as broken
RETRIES = 6  # attempts in a row that may fail without a new byte
FIRST_PAUSE = 0.5  # seconds; doubled each time, up to half of it taken off at random
BUSY = {408, 429, 500, 502, 503, 504}
RETRY_AFTER = urllib3.Retry(retry_after_max=600)  # reads that header; seconds that a server may ask for
HEADERS = {"User-Agent": "goodreads-genre-classifier/1 (python-requests)", "Accept-Encoding": "identity"}


class Download(io.RawIOBase):
    """The bytes of a URL as they are on the server (nothing is decompressed), for reading once.

    After a cut, a stall or a busy answer it continues with a Range request, guarded by If-Range (RFC 9110,
    section 13.1.5); where a server ignores Range, what is known is skipped. Proxy environment variables are
    respected.

    Attributes:
        position: bytes read so far.
    """

    def __init__(self, url: str, stop: Event) -> None:
        """Connect at the first read; when ``stop`` is set, waiting to try again ends in an InputError."""
        self.url, self.position, self._stop = url, 0, stop
        self._body: Any = None  # of the current response, not decoded, since it is gzip itself
        self._version: str | None = None  # strong ETag or else Last-Modified
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
                    self._connect()
                chunk = self._body.read1(len(view))
                break
            except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
                self._hang_up_and_wait(error)
        view[: len(chunk)] = chunk
        self.position += len(chunk)
        self._failures = 0
        return len(chunk)

    def close(self) -> None:
        """Hang up."""
        if self._body is not None:
            self._body.close()
        super().close()

    def _connect(self) -> None:
        """Ask for the rest of the body, and skip what is sent again."""
        headers: dict[str, str | None] = {**HEADERS}
        if self.position:
            headers |= {"Range": f"bytes={self.position}-", "If-Range": self._version}  # None is not sent
        response = requests.get(self.url, stream=True, timeout=TIMEOUT, headers=headers)
        status, span = response.status_code, response.headers.get("Content-Range", "")
        if status in BUSY:
            response.close()
            self._asked_wait = RETRY_AFTER.get_retry_after(response.raw) or 0.0
            raise OSError(f"HTTP {status} {response.reason}")
        if status == 416 and self.position and span == f"bytes */{self.position}":
            self._body = io.BytesIO()  # the Content-Length was too large: the body ends here
            return
        if status not in (200, 206):
            raise InputError(f"{self.url}: HTTP {status} {response.reason}; check --source")
        # a weak ETag says nothing about bytes
        etag = response.headers.get("ETag", "W/")
        version = response.headers.get("Last-Modified") if etag.startswith("W/") else etag
        elsewhere = status == 206 and not span.startswith(f"bytes {self.position}-")
        if elsewhere or (self.position and version != self._version):
            raise InputError(f"{self.url} changed while it was read, at byte {self.position:,}; run again")
        self._version, self._body = version, response.raw
        for start in range(0, self.position if status == 200 else 0, CHUNK):
            self._body.read(min(CHUNK, self.position - start))

    def _hang_up_and_wait(self, error: Exception) -> None:
        """Wait before the next attempt; raises InputError if there is none."""
        root: BaseException = error
        while (cause := root.__cause__ or root.__context__) is not None:
            root = cause
        # such as a URL, a proxy or a certificate that is none; of an open connection it can pass
        final = self._body is None and isinstance(root, ValueError)
        if self._body is not None:
            self._body.close()
        self._body, self._failures = None, self._failures + 1
        place = f"{self.url}: {type(root).__name__}: {root} at byte {self.position:,}"
        if final or self._failures > RETRIES:
            hint = "check the network, --source, proxy and certificates (REQUESTS_CA_BUNDLE), then run again"
            raise InputError(f"{place}, attempt {self._failures}; {hint}") from error
        pause = FIRST_PAUSE * 2 ** (self._failures - 1) * random.uniform(0.5, 1.0)
        pause, self._asked_wait = max(pause, self._asked_wait), 0.0
        log.warning("%s; trying again in %.1f s", place, pause)
        if self._stop.wait(pause):
            raise InputError(f"{self.url}: reading was stopped")

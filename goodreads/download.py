"""An HTTP body in chunks that survives broken connections: resumed where it broke, not begun anew."""

import random
from collections.abc import Generator
from threading import Event
from typing import Any

from goodreads.cli import InputError, log

CHUNK = 1 << 16  # bytes a read asks for: the most that is read past what is needed
TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte
RETRIES = 4  # in a row without a new byte
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds; doubled each time, half of it at random
BUSY = {408, 429, 500, 502, 503, 504}
USER_AGENT = "goodreads-genre-classifier/1 (python-requests)"


class _Broken(Exception):
    """A failure that may pass; ``after`` is how many seconds the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def http_chunks(url: str, stop: Event) -> Generator[bytes, None, None]:
    """The body of ``url`` as it stands on the server, in chunks of at most ``CHUNK`` bytes.

    After a cut, a stall or a busy answer it goes on from the byte reached with a Range request, guarded by
    If-Range (RFC 9110, section 13.1.5); a server that ignores Range sends anew, and what is known is skipped.

    Args:
        url: http or https; the proxy environment variables are respected.
        stop: ends the waiting between two tries once it is set.

    Raises:
        InputError: it failed ``RETRIES`` times in a row, for good, or the file changed meanwhile.
    """
    body = _Body(url)
    failures, reached = 0, 0
    while True:
        try:
            yield from body.rest()
            return
        except _Broken as broken:
            failures = 1 if body.position > reached else failures + 1
            reached = body.position
            if failures > RETRIES:
                advice = "check the network and --source, then run again"
                raise InputError(f"{url}: {broken} at byte {reached:,}, {failures} times; {advice}") from None
            pause = min(FIRST_PAUSE * 2 ** (failures - 1), LONGEST_PAUSE) * random.uniform(0.5, 1.0)
            pause = max(pause, min(broken.after, 2 * LONGEST_PAUSE))
            log.warning("%s: %s; going on from byte %s in %.1f s", url, broken, f"{reached:,}", pause)
            if stop.wait(pause):
                return


class _Body:
    """A body that is being read: its address, the position reached, and what identifies its version."""

    def __init__(self, url: str) -> None:
        self.url, self.position, self.version = url, 0, ""

    def rest(self) -> Generator[bytes, None, None]:
        import requests
        import urllib3

        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if self.position:
            headers["Range"] = f"bytes={self.position}-"
            headers |= {"If-Range": self.version} if self.version else {}
        try:
            with requests.get(self.url, stream=True, timeout=TIMEOUT, headers=headers) as response:
                skip = self._check(response)
                # the raw body: the file is gzip itself, and nothing may unpack it on the way
                while chunk := response.raw.read(min(CHUNK, skip) if skip else CHUNK, decode_content=False):
                    if skip:
                        skip -= len(chunk)
                        continue
                    self.position += len(chunk)
                    yield chunk
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
            raise InputError(f"{self.url}: {error}; check --source") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _Broken(_reason(error)) from None

    def _check(self, response: Any) -> int:
        """Judge an answer; the bytes to skip because the server sends anew what is known."""
        if response.status_code in BUSY:
            after = response.headers.get("Retry-After", "")
            raise _Broken(
                f"HTTP {response.status_code} {response.reason}", float(after) if after.isdigit() else 0
            )
        if response.status_code not in (200, 206):
            raise InputError(f"{self.url}: HTTP {response.status_code} {response.reason}; check --source")
        etag = response.headers.get("ETag", "")
        # a weak ETag does not vouch for bytes
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")
        if self.position and version != self.version:
            raise InputError(f"{self.url} changed while it was read, at byte {self.position:,}; run again")
        self.version = version
        if response.status_code == 200:
            return self.position
        start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
        if start != str(self.position):
            raise InputError(f"{self.url}: asked from byte {self.position:,} and got {start or 'no range'}")
        return 0


def _reason(error: BaseException) -> str:
    root: BaseException = error
    while (cause := root.__cause__ or root.__context__) is not None:
        root = cause
    return f"{type(root).__name__}: {root}"

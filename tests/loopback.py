"""A real HTTP server on 127.0.0.1 that serves a folder, misbehaves on request and records what it sent."""

import socket
import ssl
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

CHUNK = 8192


@dataclass
class Answer:
    """How one file is answered instead of as it stands on disk.

    ``truncate_at`` serves a shorter file as if that were all; ``cut_at`` announces the whole file and
    hangs up after that many bytes; ``stall_at`` sends nothing more after that many bytes for ``stall``
    seconds; ``extra_length`` is how far the Content-Length is wrong.
    """

    status: int = 200
    body: bytes | None = None
    content_type: str = "application/gzip"
    truncate_at: int | None = None
    cut_at: int | None = None
    ranges: bool = True
    etag: str = '"one"'
    retry_after: str = ""
    stall_at: int | None = None
    stall: float = 5.0
    extra_length: int = 0


@dataclass
class Request:
    path: str
    range: str
    start: float
    sent: int = 0
    total: int = 0
    closed_early: bool = False
    end: float | None = None


class FileServer:
    """Serves ``folder``'s files under any prefix: only the last part of the path counts.

    ``delay`` is slept before each chunk of ``CHUNK`` bytes; ``answers`` maps a file name to an ``Answer``,
    or to a list of them for one request each, after which the file is answered as it stands. With a
    ``certificate`` (and its key in one PEM file) it speaks TLS.
    """

    def __init__(
        self,
        folder: Path,
        delay: float = 0.0,
        answers: dict[str, Answer | list[Answer]] | None = None,
        certificate: Path | None = None,
    ) -> None:
        self.certificate = certificate
        self.folder, self.delay, self.answers = folder, delay, answers or {}
        self.requests: list[Request] = []
        self.max_concurrent = self._active = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer._serve(self)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}/byGenre/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait(self, requests: int = 0, active: int | None = None, timeout: float = 20.0) -> None:
        """Until at least ``requests`` have come and, where given, exactly ``active`` are being answered."""
        with self._changed:
            if not self._changed.wait_for(
                lambda: active in (None, self._active) and len(self.requests) >= requests, timeout
            ):
                raise TimeoutError(f"{self._active} open connections, {len(self.requests)} requests")

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        request = Request(handler.path, handler.headers.get("Range", ""), time.monotonic())
        with self._changed:
            self.requests.append(request)
            self._active += 1
            self.max_concurrent = max(self.max_concurrent, self._active)
            self._changed.notify_all()
        try:
            self._send(handler, request)
        except OSError:
            request.closed_early = True
        finally:
            with self._changed:
                self._active -= 1
                request.end = time.monotonic()
                self._changed.notify_all()

    def _send(self, handler: BaseHTTPRequestHandler, request: Request) -> None:
        # a small buffer, so that what is counted as sent is nearly what the client took
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * CHUNK)
        name = handler.path.rpartition("/")[2]
        path, answer = self.folder / name, self.answers.get(name, Answer())
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else Answer()
        if answer.body is None and not path.is_file():
            answer = Answer(404, b"not here", "text/plain")
        body = path.read_bytes() if answer.body is None else answer.body
        body = body[: answer.truncate_at]
        start = int(request.range.removeprefix("bytes=").rstrip("-") or 0)
        guard = handler.headers.get("If-Range", answer.etag)
        partial = bool(start and answer.ranges and answer.status == 200 and guard == answer.etag)
        if partial and start >= len(body):
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(body)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        size, body = len(body), body[start:] if partial else body
        request.total = len(body)
        handler.send_response(206 if partial else answer.status)
        handler.send_header("ETag", answer.etag)
        if answer.retry_after:
            handler.send_header("Retry-After", answer.retry_after)
        if partial:
            handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        handler.send_header("Content-Type", answer.content_type)
        handler.send_header("Content-Length", str(max(0, len(body) + answer.extra_length)))
        handler.end_headers()
        view = memoryview(body)[: answer.cut_at]
        if answer.stall_at is not None:
            handler.connection.sendall(view[: answer.stall_at])
            request.sent = min(len(view), answer.stall_at)
            self._stopping.wait(answer.stall)
            return
        while request.sent < len(view) and not self._stopping.wait(self.delay):
            request.sent += handler.connection.send(view[request.sent : request.sent + CHUNK])

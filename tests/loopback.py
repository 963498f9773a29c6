"""A real HTTP server on 127.0.0.1 that serves a folder, misbehaves on request and records what it sent."""

import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
    """What was asked for; how much was sent of how much; and whether the client hung up before the end."""

    path: str
    range: str
    sent: int = 0
    total: int = 0
    closed_early: bool = False


class FileServer(ThreadingHTTPServer):
    """Serves ``folder``'s files under any prefix: only the last part of the path counts.

    ``delay`` is slept before each chunk of ``CHUNK`` bytes; ``answers`` maps a file name to an ``Answer``,
    or to a list of them for one request each, after which the file is answered as it stands.
    """

    def __init__(
        self, folder: Path, delay: float = 0.0, answers: dict[str, Answer | list[Answer]] | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.delay, self.answers = folder, delay, answers or {}
        self.requests: list[Request] = []
        self.max_concurrent = self.active = 0
        self.changed, self.stopping = threading.Condition(), threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/byGenre/"

    def __enter__(self) -> "FileServer":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def wait(self, requests: int = 0, active: int | None = None) -> None:
        """Until at least ``requests`` have come and, where given, exactly ``active`` are being answered."""
        with self.changed:
            assert self.changed.wait_for(
                lambda: active in (None, self.active) and len(self.requests) >= requests, timeout=20
            ), f"{self.active} open connections, {len(self.requests)} requests"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        request, server = Request(self.path, self.headers.get("Range", "")), self.server
        with server.changed:
            server.requests.append(request)
            server.active += 1
            server.max_concurrent = max(server.max_concurrent, server.active)
            server.changed.notify_all()
        try:
            self.answer(request)
        except OSError:
            request.closed_early = True
        with server.changed:
            server.active -= 1
            server.changed.notify_all()

    def answer(self, request: Request) -> None:
        # a small buffer, so that what is counted as sent is nearly what the client took
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * CHUNK)
        name = self.path.rpartition("/")[2]
        path, answer = self.server.folder / name, self.server.answers.get(name, Answer())
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else Answer()
        if answer.body is None and not path.is_file():
            answer = Answer(404, b"not here")
        body = path.read_bytes() if answer.body is None else answer.body
        body = body[: answer.truncate_at]
        start, size = int(request.range.removeprefix("bytes=").rstrip("-") or 0), len(body)
        guard = self.headers.get("If-Range", answer.etag)
        status, headers = answer.status, {"ETag": answer.etag}
        if start and answer.ranges and status == 200 and guard == answer.etag:
            status = 206 if start < size else 416
            headers["Content-Range"] = (
                f"bytes {start}-{size - 1}/{size}" if start < size else f"bytes */{size}"
            )
            body = body[start:]
        if answer.retry_after:
            headers["Retry-After"] = answer.retry_after
        request.total = len(body)
        headers["Content-Length"] = str(max(0, len(body) + answer.extra_length))
        self.send_response(status)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        view = memoryview(body)[: answer.cut_at]
        if answer.stall_at is not None:
            self.connection.sendall(view[: answer.stall_at])
            request.sent = min(len(view), answer.stall_at)
            self.server.stopping.wait(answer.stall)
            return
        while request.sent < len(view) and not self.server.stopping.wait(self.server.delay):
            request.sent += self.connection.send(view[request.sent : request.sent + CHUNK])

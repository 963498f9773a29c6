"""A loopback Hugging Face Hub: the Hub's HTTP API for model repos, on 127.0.0.1, with faults on demand.

The unmodified huggingface_hub client talks to it through HF_ENDPOINT. Files are real, stored by content
under one folder, and a hub may be started again on the same folder. Standard library only; hf_xet is
started, in a process of its own, only when a client uploaded over xet.

By hand: python tools/loopback_hub.py --root DIR --user ada --token-file FILE
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".png", ".pt", ".pth", ".onnx", ".h5", ".npz", ".zip")
LFS_BYTES = 10 * 2**20
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
CHUNK = 1 << 16
FAULT_KINDS = {"status", "lost_answer", "cut_upload", "cut_download", "flip_byte", "stall"}


@dataclass(frozen=True)
class Token:
    """Whose token it is and what it may do: the role is "write", "read" or "fineGrained"."""

    user: str
    role: str = "write"


@dataclass
class Fault:
    """What goes wrong with the next matching requests; `times` and `skip` count down as they come."""

    kind: str
    method: str | None = None
    path: str = ""
    status: int = 503
    times: int | None = 1
    skip: int = 0
    retry_after: int | None = None
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in FAULT_KINDS:
            raise ValueError(f"no such fault: {self.kind!r}")

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is hit; counts it."""
        if self.times == 0 or self.method not in (None, method) or not re.search(self.path, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


class Faults:
    """The faults a hub has been told to inject, in order: the first that strikes wins."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> Fault:
        """Arm a fault."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Disarm all."""
        with self._lock:
            self._faults.clear()

    def take(self, method: str, path: str) -> Fault | None:
        """The fault that strikes this request, if any."""
        with self._lock:
            return next((fault for fault in self._faults if fault.strikes(method, path)), None)


@dataclass
class Request:
    """What one request did. A status of 0 means it got no answer."""

    method: str
    path: str
    status: int = 0
    bytes_sent: int = 0
    authorized: bool = False
    bytes_received: int = 0


@dataclass(frozen=True)
class File:
    """One file of a commit; `oid` is its git blob id (of the pointer, for an LFS file)."""

    sha256: str
    size: int
    lfs: bool
    oid: str
    xet: str | None
    place: Path = field(repr=False, compare=False)

    @property
    def content(self) -> bytes:
        """Its bytes."""
        return self.place.read_bytes()

    @property
    def etag(self) -> str:
        """What the client names its cached blob by."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """One commit: all files of its tree, by path."""

    oid: str
    parent: str | None
    title: str
    message: str
    date: str
    author: str
    files: dict[str, File]


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or none."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    part.write_bytes(data)
    part.replace(path)


def git_blob(data: bytes) -> str:
    """The git object id of a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def lfs_pointer(sha256: str, size: int) -> bytes:
    """The pointer file that git keeps for an LFS object."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def is_lfs(path: str, size: int) -> bool:
    """Whether the Hub stores such a file by LFS. Never when empty, as the client itself insists."""
    return size > LFS_BYTES or (size > 0 and path.endswith(LFS_SUFFIXES))


class Objects:
    """File contents by sha256, one file each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def place(self, sha256: str) -> Path:
        """Where the content lies, if it is here."""
        return self._folder / sha256

    def has(self, sha256: str) -> bool:
        """Whether the content is here."""
        return re.fullmatch("[0-9a-f]{64}", sha256) is not None and self.place(sha256).is_file()

    def add(self, data: bytes) -> str:
        """Store bytes and return their sha256."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256):
            write_atomic(self.place(sha256), data)
        return sha256

    def receive(self, chunks: Iterable[bytes], sha256: str, size: int | None = None) -> bool:
        """Store a stream, unless it is not the content it was announced as."""
        part = self._folder / f"{secrets.token_hex(8)}.part"
        digest, received = hashlib.sha256(), 0
        try:
            with part.open("wb") as out:
                for chunk in chunks:
                    digest.update(chunk)
                    received += out.write(chunk)
            if digest.hexdigest() != sha256 or size not in (None, received):
                return False
            part.replace(self.place(sha256))
            return True
        finally:
            part.unlink(missing_ok=True)

    def file(self, sha256: str, lfs: bool, xet: str | None = None) -> File:
        """The file with this content, which must be here."""
        place = self.place(sha256)
        size = place.stat().st_size
        oid = git_blob(lfs_pointer(sha256, size) if lfs else place.read_bytes())
        return File(sha256, size, lfs, oid, xet, place)


_FETCH_XET = """
import sys, hf_xet
with hf_xet.XetSession().new_file_download_group(endpoint=sys.argv[1]) as group:
    group.start_download_file(hf_xet.XetFileInfo(sys.argv[2], None), sys.argv[3])
"""


class Xet:
    """hf_xet's on-disk CAS. Uploads share one folder; each reader gets a copy of its index.

    hf_xet locks the index for as long as a client holds its upload, so reading in place would fail.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        shutil.rmtree(folder / "views", ignore_errors=True)
        (folder / "cas").mkdir(parents=True, exist_ok=True)

    @property
    def write_url(self) -> str:
        """The CAS to upload to: one client process at a time."""
        return f"local://{self._folder / 'cas'}"

    def read_url(self) -> str:
        """A CAS to download from, as things stand now."""
        source = self._folder / "cas/xet/xorbs"
        view = self._folder / "views" / secrets.token_hex(8)
        for folder in ("xorbs", "shards"):
            (view / "xet/xorbs" / folder).mkdir(parents=True)
            for item in source.glob(f"{folder}/*"):
                os.link(item, view / "xet/xorbs" / folder / item.name)
        for index in source.glob("*.redb"):
            shutil.copyfile(index, view / "xet/xorbs" / index.name)
        return f"local://{view}"

    def hash_of(self, sha256: str) -> str | None:
        """The xet hash of an uploaded file, from the shards its client wrote: commits name only sha256."""
        for shard in self._folder.glob("cas/xet/xorbs/shards/*.mdb"):
            for known, xet in _shard_files(shard.read_bytes()):
                if known == sha256:
                    return xet
        return None

    def fetch(self, xet: str) -> Iterator[bytes]:
        """The content of a file, rebuilt by hf_xet."""
        out = self._folder / secrets.token_hex(8)
        try:
            command = [sys.executable, "-c", _FETCH_XET, self.read_url(), xet, str(out)]
            env = {**os.environ, "HF_XET_CACHE": str(self._folder / "cache")}
            subprocess.run(command, env=env, check=True, timeout=120)
            with out.open("rb") as stream:
                yield from iter(lambda: stream.read(CHUNK), b"")
        finally:
            out.unlink(missing_ok=True)


def _shard_files(shard: bytes) -> Iterator[tuple[str, str]]:
    """The (sha256, xet hash) of each file of a shard: 48-byte records after a 48-byte header."""

    def hash_at(at: int) -> str:
        return b"".join(shard[i : i + 8][::-1] for i in range(at, at + 32, 8)).hex()

    at = 48
    while at + 48 <= len(shard) and shard[at : at + 32] != b"\xff" * 32:
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        end = at + 48 + 48 * segments * (2 if flags >> 31 else 1)
        if flags >> 30 & 1:
            yield hash_at(end), hash_at(at)
            end += 48
        at = end


class Store:
    """All that is on disk: objects, xet CAS and repos; `lock` guards the state of the repos."""

    def __init__(self, root: Path) -> None:
        self.objects = Objects(root / "objects")
        self.xet = Xet(root.resolve() / "xet")
        self.lock = threading.RLock()
        self._folder = root / "repos"
        self._folder.mkdir(exist_ok=True)
        self.repos = {repo.id: repo for repo in map(self._load, self._folder.glob("*.json"))}

    def create(self, repo_id: str, private: bool) -> Repo:
        """A new repo, with the first commit that the Hub makes."""
        repo = Repo(repo_id, private, self)
        first = self.objects.file(self.objects.add(GITATTRIBUTES.encode()), lfs=False)
        repo.record("main", {".gitattributes": first}, "initial commit", "", "system")
        self.repos[repo_id] = repo
        return repo

    def delete(self, repo_id: str) -> None:
        """Forget a repo; its objects stay."""
        del self.repos[repo_id]
        self._place(repo_id).unlink()

    def save(self, repo: Repo) -> None:
        """Put the state of a repo on disk."""
        commits = [{**vars(commit), "files": _plain(commit.files)} for commit in repo.commits]
        state = {key: getattr(repo, key) for key in ("id", "private", "branches", "tags")}
        write_atomic(self._place(repo.id), json.dumps({**state, "commits": commits}).encode())

    def _load(self, path: Path) -> Repo:
        state = json.loads(path.read_bytes())
        for commit in state["commits"]:
            files = commit["files"].items()
            place = self.objects.place
            commit["files"] = {name: File(**file, place=place(file["sha256"])) for name, file in files}
        commits = [Commit(**commit) for commit in state["commits"]]
        return Repo(state["id"], state["private"], self, commits, state["branches"], state["tags"])

    def _place(self, repo_id: str) -> Path:
        return self._folder / f"{repo_id.replace('/', '__')}.json"


def _plain(files: dict[str, File]) -> dict[str, dict[str, Any]]:
    return {path: {k: v for k, v in vars(file).items() if k != "place"} for path, file in files.items()}


@dataclass
class Repo:
    """One model repo: its commits, oldest first, and the refs into them."""

    id: str
    private: bool
    store: Store = field(repr=False)
    commits: list[Commit] = field(default_factory=list, repr=False)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """The user whose repo it is."""
        return self.id.split("/")[0]

    @property
    def head(self) -> str:
        """The commit that main points to."""
        return self.branches["main"]

    def at(self, rev: str) -> Commit | None:
        """The commit that a branch, a tag or a full commit id names."""
        oid = self.branches.get(rev) or self.tags.get(rev) or rev
        return next((commit for commit in self.commits if commit.oid == oid), None)

    def history(self, commit: Commit | None) -> Iterator[Commit]:
        """A commit and its ancestors."""
        while commit:
            yield commit
            commit = self.at(commit.parent) if commit.parent else None

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The commit that gave a file the content it has."""
        for older in self.history(commit):
            if older.files.get(path) != commit.files.get(path):
                break
            last = older
        return last

    def commit(self, changes: dict[str, bytes | None], title: str, branch: str = "main") -> str:
        """Commit contents by path, None to delete one, behind the client's back."""
        objects = self.store.objects
        with self.store.lock:
            files = dict(_commit_at(self, branch).files)
            for path, data in changes.items():
                if data is None:
                    del files[path]
                else:
                    files[path] = objects.file(objects.add(data), lfs=is_lfs(path, len(data)))
            return self.record(branch, files, title, "", self.owner)

    def record(self, branch: str, files: dict[str, File], title: str, message: str, author: str) -> str:
        """Append a commit of exactly these files to a branch. The caller holds the lock."""
        parent = self.branches.get(branch)
        seed = json.dumps([self.id, parent, title, message, _plain(files), len(self.commits), time.time_ns()])
        oid = hashlib.sha1(seed.encode()).hexdigest()
        date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        self.commits.append(Commit(oid, parent, title, message, date, author, files))
        self.branches[branch] = oid
        self.store.save(self)
        return oid


class Refusal(Exception):
    """An error answer, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, json.dumps({"error": message}).encode())
        self.answer.headers["X-Error-Message"] = message.encode("unicode_escape").decode()
        if code:
            self.answer.headers["X-Error-Code"] = code
        self.answer.headers.update({name.replace("_", "-"): value for name, value in headers.items()})


@dataclass
class Answer:
    """A status, headers, and a body that is bytes or a part of a file."""

    status: int = 200
    body: bytes | tuple[Path, int, int] = b""
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    @property
    def length(self) -> int:
        """The length of the body."""
        return len(self.body) if isinstance(self.body, bytes) else self.body[2]

    def chunks(self) -> Iterator[bytes]:
        """The body, piece by piece."""
        if isinstance(self.body, bytes):
            yield self.body
            return
        path, start, left = self.body
        with path.open("rb") as stream:
            stream.seek(start)
            while left > 0 and (chunk := stream.read(min(CHUNK, left))):
                left -= len(chunk)
                yield chunk


def _json(value: object, status: int = 200, **headers: str) -> Answer:
    answer = Answer(status, json.dumps(value).encode())
    answer.headers.update({name.replace("_", "-"): text for name, text in headers.items()})
    return answer


class LoopbackHub:
    """The Hub itself: serves from `with` to its end. Tokens are kept in memory only."""

    def __init__(self, root: Path, tokens: dict[str, Token], port: int = 0) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.tokens = dict(tokens)
        self.store = Store(root)
        self.faults = Faults()
        self.requests: list[Request] = []
        self.before_commit: Callable[[Repo], object] | None = None
        self.uploads: dict[str, tuple[str, int]] = {}  # what each upload address may receive
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def repo(self, repo_id: str) -> Repo | None:
        """The repo of this id."""
        return self.store.repos.get(repo_id)

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = False  # so that a closed hub has no thread left at work

    def __init__(self, address: tuple[str, int], hub: LoopbackHub) -> None:
        self.hub = hub
        self.connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer asks DNS for its own name here, which can take seconds.
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Any]:
        request, address = super().get_request()
        self.connections.add(request)
        return request, address

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away, or was cut off on purpose, is no error.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """End the keep-alive connections, which would otherwise go on being served."""
        for connection in list(self.connections):
            _shut(connection)


def _shut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # gone already
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, applies faults, sends answers."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def hub(self) -> LoopbackHub:
        """The hub it serves."""
        return self.server.hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def serve(self) -> None:
        """Answer one request."""
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        self.content = b""
        self.left = int(self.headers.get("Content-Length") or 0)
        key = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.token = self.hub.tokens.get(key)
        self.request_log = Request(self.command, address.path, authorized=self.token is not None)
        self.hub.requests.append(self.request_log)
        fault = self.hub.faults.take(self.command, address.path)
        kind = fault.kind if fault else ""
        if fault and kind == "stall":
            self.hub.closing.wait(fault.seconds)
        if kind == "cut_upload":
            self.left //= 2
            self.body()
            return self._cut()
        if fault and kind == "status":
            answer = Refusal(fault.status, "injected fault").answer
            if fault.retry_after is not None:
                answer.headers["Retry-After"] = str(fault.retry_after)
        else:
            answer = self._answer(address.path)
        for _ in self.stream():
            pass  # what is left of the body would be taken for the next request
        if kind == "lost_answer":
            return self._cut()
        self._send(answer, kind)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815

    def stream(self) -> Iterator[bytes]:
        """The request body, piece by piece."""
        while self.left > 0:
            chunk = self.rfile.read(min(CHUNK, self.left))
            if not chunk:
                raise ConnectionResetError
            self.left -= len(chunk)
            self.request_log.bytes_received += len(chunk)
            yield chunk

    def body(self) -> bytes:
        """All of the request body, read once."""
        self.content += b"".join(self.stream())
        return self.content

    def json(self) -> dict[str, Any]:
        """The request body, parsed."""
        try:
            value = json.loads(self.body() or b"{}")
        except ValueError:
            raise Refusal(400, "Invalid JSON") from None
        return value if isinstance(value, dict) else {}

    def flag(self, name: str) -> bool:
        """Whether the query says yes to this."""
        return self.query.get(name, [""])[0].lower() in ("1", "true")

    def _answer(self, path: str) -> Answer:
        try:
            if self.token is None and "Authorization" in self.headers:
                raise Refusal(401, "Invalid credentials in Authorization header")
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                self.close_connection = True
                raise Refusal(411, "Length Required")
            for route in _ROUTES:
                if self.command in route.methods and (match := route.pattern.fullmatch(path)):
                    return self._call(route, match.groupdict())
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        except Refusal as refusal:
            return refusal.answer
        except ConnectionError:
            raise
        except Exception as error:
            traceback.print_exc()
            return Refusal(500, f"loopback hub: {type(error).__name__}").answer

    def _call(self, route: _Route, groups: dict[str, str | None]) -> Answer:
        found: dict[str, Any] = {name: unquote(value or "") for name, value in groups.items()}
        if "repo" in found:
            found["repo"] = self._repo(found["repo"], route.write)
        if route.slow:
            return route.handle(self, **found)
        self.body()  # a slow sender must not hold the lock
        with self.hub.store.lock:
            return route.handle(self, **found)

    def _repo(self, repo_id: str, write: bool) -> Repo:
        """The repo, if this token may see it, and write to it if asked; like the Hub, it hides the rest."""
        repo, token = self.hub.repo(repo_id), self.token
        hidden = repo is None or (repo.private and (token is None or token.user != repo.owner))
        if token is None and (hidden or write):
            raise Refusal(401, "Invalid username or password.", "RepoNotFound" if hidden else "")
        if repo is None or hidden:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write:
            self.may_write(repo.owner)
        return repo

    def may_write(self, owner: str) -> Token:
        """The caller's token, if it may write to this namespace."""
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        if self.token.role == "read":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        if self.token.user != owner:
            raise Refusal(403, f'You don\'t have the rights to write under the namespace "{owner}"')
        return self.token

    def _cut(self) -> None:
        self.close_connection = True
        _shut(self.connection)

    def _send(self, answer: Answer, kind: str) -> None:
        self.request_log.status = answer.status
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(answer.length))
        self.end_headers()
        if self.command == "HEAD":
            return
        half = answer.length // 2
        end = half if kind == "cut_download" else answer.length
        sent = 0
        for chunk in answer.chunks():
            if kind == "flip_byte" and sent <= half < sent + len(chunk):
                at = half - sent
                chunk = chunk[:at] + bytes([chunk[at] ^ 1]) + chunk[at + 1 :]
            chunk = chunk[: end - sent]
            sent += len(chunk)
            self.request_log.bytes_sent += len(chunk)
            self.wfile.write(chunk)
        if kind == "cut_download":
            self._cut()


_Handle = Callable[..., Answer]


@dataclass(frozen=True)
class _Route:
    methods: tuple[str, ...]
    pattern: re.Pattern[str]
    handle: _Handle
    write: bool
    slow: bool


_ROUTES: list[_Route] = []
_REPO = "/(?P<repo>[^/]+/[^/]+)"
_MODEL = f"/api/models{_REPO}"
_REV = "/(?P<rev>[^/]+)"


def _route(
    methods: str, pattern: str, write: bool = False, slow: bool = False
) -> Callable[[_Handle], _Handle]:
    """Serve these addresses; with `write`, only to who may write; `slow` ones run outside the lock."""

    def add(handle: _Handle) -> _Handle:
        _ROUTES.append(_Route(tuple(methods.split()), re.compile(pattern), handle, write, slow))
        return handle

    return add


def _commit_at(repo: Repo, rev: str) -> Commit:
    commit = repo.at(rev or "main")
    if commit is None:
        raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
    return commit


@_route("GET", "/api/whoami-v2")
def _whoami(call: _Handler) -> Answer:
    if call.token is None:
        raise Refusal(401, "Invalid username or password.")
    user, role = call.token.user, call.token.role
    access: dict[str, Any] = {"displayName": "loopback", "role": role}
    if role == "fineGrained":
        scope = {"entity": {"type": "user", "name": user}, "permissions": ["repo.content.read", "repo.write"]}
        access["fineGrained"] = {"canReadGatedRepos": True, "global": [], "scoped": [scope]}
    auth = {"type": "access_token", "accessToken": access}
    return _json({"type": "user", "id": user, "name": user, "fullname": user, "orgs": [], "auth": auth})


@_route("POST", "/api/repos/create")
def _create_repo(call: _Handler) -> Answer:
    asked = call.json()
    if call.token is None:
        raise Refusal(401, "Invalid username or password.")
    repo_id = f"{asked.get('organization') or call.token.user}/{asked.get('name')}"
    if asked.get("type", "model") != "model" or not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise Refusal(400, "The loopback Hub serves model repos only")
    answer = {"url": f"{call.hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
    owner = repo_id.split("/")[0]
    # The Hub looks at the name before the role: a read token learns that the repo exists.
    if call.token.user == owner and call.hub.repo(repo_id):
        return _json({"error": "You already created this model repo", **answer}, 409)
    call.may_write(owner)
    call.hub.store.create(repo_id, asked.get("visibility") == "private" or bool(asked.get("private")))
    return _json(answer)


@_route("DELETE", "/api/repos/delete")
def _delete_repo(call: _Handler) -> Answer:
    asked = call.json()
    user = call.token.user if call.token else ""
    repo = call._repo(f"{asked.get('organization') or user}/{asked.get('name')}", write=True)
    call.hub.store.delete(repo.id)
    return _json({})


@_route("PUT", f"{_MODEL}/settings", write=True)
def _settings(call: _Handler, repo: Repo) -> Answer:
    asked = call.json()
    if "visibility" in asked or "private" in asked:
        repo.private = asked.get("visibility") == "private" or bool(asked.get("private"))
        call.hub.store.save(repo)
    return _json({"private": repo.private})


@_route("GET", f"{_MODEL}/auth-check")
@_route("GET", f"{_MODEL}/auth-check/write", write=True)
def _auth_check(call: _Handler, repo: Repo) -> Answer:
    return _json({})


@_route("POST", "/api/validate-yaml")
def _validate_yaml(call: _Handler) -> Answer:
    card = str(call.json().get("content", ""))
    found = re.match(r"---\s*\n.*?\n---", card, re.DOTALL)
    warnings = [] if found else [{"message": "empty or missing yaml metadata in repo card"}]
    return _json({"errors": [], "warnings": warnings})


@_route("POST", f"{_MODEL}/preupload{_REV}", write=True)
def _preupload(call: _Handler, repo: Repo, rev: str) -> Answer:
    files = _commit_at(repo, rev).files
    asked = call.json()
    rules = asked.get("gitIgnore") or (files[".gitignore"].content.decode() if ".gitignore" in files else "")
    answer = []
    for file in asked.get("files", []):
        path, here = file["path"], files.get(file["path"])
        mode = "lfs" if is_lfs(path, file["size"]) else "regular"
        # For an LFS file the client compares this with its sha256, not with the id of the pointer.
        oid = here.etag if here else None
        answer.append({"path": path, "uploadMode": mode, "shouldIgnore": _ignored(path, rules), "oid": oid})
    return _json({"files": answer})


def _ignored(path: str, rules: str) -> bool:
    """Whether the plain kinds of .gitignore lines (names, globs, folders) match a path."""
    lines = [line.strip().strip("/") for line in rules.splitlines()]
    globs = [line for line in lines if line and line[0] not in "#!"]
    parents = [path, *(str(parent) for parent in Path(path).parents)][:-1]
    return any(fnmatch.fnmatch(p, g) or fnmatch.fnmatch(Path(p).name, g) for g in globs for p in parents)


@_route("POST", rf"{_REPO}\.git/info/lfs/objects/batch", write=True)
def _lfs_batch(call: _Handler, repo: Repo) -> Answer:
    objects = []
    for item in call.json().get("objects", []):
        entry: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
        if not call.hub.store.objects.has(item["oid"]):
            # Uploads carry no token: the address itself is the permission, as with signed storage URLs.
            grant = secrets.token_hex(16)
            call.hub.uploads[grant] = (item["oid"], item["size"])
            upload = f"{call.hub.url}/lfs-upload/{item['oid']}?grant={grant}"
            verify = f"{call.hub.url}/{repo.id}.git/info/lfs/verify"
            entry["actions"] = {"upload": {"href": upload}, "verify": {"href": verify}}
        objects.append(entry)
    return _json({"transfer": "basic", "objects": objects})


@_route("PUT", "/lfs-upload/(?P<oid>[0-9a-f]{64})", slow=True)
def _lfs_upload(call: _Handler, oid: str) -> Answer:
    known, size = call.hub.uploads.get(call.query.get("grant", [""])[0], ("", 0))
    if known != oid:
        raise Refusal(403, "Request has expired")
    if not call.hub.store.objects.receive(call.stream(), oid, size):
        raise Refusal(400, "The content does not match its sha256 and size")
    return Answer()


@_route("POST", rf"{_REPO}\.git/info/lfs/verify", write=True)
def _lfs_verify(call: _Handler, repo: Repo) -> Answer:
    asked, objects = call.json(), call.hub.store.objects
    if not objects.has(asked["oid"]) or objects.place(asked["oid"]).stat().st_size != asked["size"]:
        raise Refusal(404, "LFS object not found")
    return _json({})


@_route("GET", f"{_MODEL}/xet-(?P<kind>read|write)-token{_REV}", slow=True)
def _xet_token(call: _Handler, repo: Repo, kind: str, rev: str) -> Answer:
    if kind == "write":
        call.may_write(repo.owner)
    xet = call.hub.store.xet
    url = xet.write_url if kind == "write" else xet.read_url()
    token, expires = secrets.token_hex(16), int(time.time()) + 3600
    # huggingface_hub reads the headers, hf_xet itself the JSON.
    return _json(
        {"casUrl": url, "accessToken": token, "exp": expires},
        X_Xet_Cas_Url=url,
        X_Xet_Access_Token=token,
        X_Xet_Token_Expiration=str(expires),
    )


@_route("POST", f"{_MODEL}/commit{_REV}", write=True, slow=True)
def _commit(call: _Handler, repo: Repo, rev: str) -> Answer:
    if call.flag("create_pr"):
        raise Refusal(400, "The loopback Hub has no pull requests")
    items = [json.loads(line) for line in call.body().splitlines() if line.strip()]
    header = next(item["value"] for item in items if item["key"] == "header")
    store = call.hub.store
    changes = [_change(store, item["key"], item["value"]) for item in items if item["key"] != "header"]
    if call.hub.before_commit:
        call.hub.before_commit(repo)
    with store.lock:
        head = repo.branches.get(rev)
        if head is None:
            raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
        if not head.startswith(header.get("parentCommit") or ""):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        before = _commit_at(repo, head).files
        files = dict(before)
        for change in changes:
            change(files)
        if files != before:
            author = call.token.user if call.token else ""
            head = repo.record(rev, files, header["summary"], header.get("description") or "", author)
    url = f"{call.hub.url}/{repo.id}/commit/{head}"
    return _json({"success": True, "commitOid": head, "commitUrl": url, "hookOutput": ""})


def _change(store: Store, key: str, value: dict[str, Any]) -> Callable[[dict[str, File]], None]:
    """What one line of a commit does to the files. Contents are stored here, before the lock is taken."""
    path: str = value["path"]
    if key == "file":
        file = store.objects.file(store.objects.add(base64.b64decode(value["content"])), lfs=False)
    elif key == "lfsFile":
        file = _lfs_file(store, value["oid"])
    elif key not in ("deletedFile", "deletedFolder"):
        raise Refusal(400, f"Unknown operation: {key}")

    def delete(files: dict[str, File]) -> None:
        kind = "folder" if key == "deletedFolder" else "file"
        inside = f"{path.rstrip('/')}/"
        gone = [name for name in files if (name.startswith(inside) if kind == "folder" else name == path)]
        if not gone:
            raise Refusal(404, f"A {kind} with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del files[name]

    return delete if key.startswith("deleted") else lambda files: files.update({path: file})


def _lfs_file(store: Store, oid: str) -> File:
    xet = store.xet.hash_of(oid)
    if xet and not store.objects.has(oid):
        store.objects.receive(store.xet.fetch(xet), oid)
    if not store.objects.has(oid):
        raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {oid}")
    return store.objects.file(oid, lfs=True, xet=xet)


@_route("GET", f"{_MODEL}(?:/revision{_REV})?")
def _model_info(call: _Handler, repo: Repo, rev: str) -> Answer:
    commit = _commit_at(repo, rev)
    siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.files)]
    for sibling in siblings if call.flag("blobs") else []:
        file = commit.files[sibling["rfilename"]]
        sibling.update(size=file.size, blobId=file.oid)
        if file.lfs:
            sibling["lfs"] = _lfs_entry(file, "sha256")
    info: dict[str, Any] = {"_id": repo.id, "id": repo.id, "modelId": repo.id, "author": repo.owner}
    info.update(sha=commit.oid, private=repo.private, gated=False, disabled=False, downloads=0, likes=0)
    info.update(lastModified=commit.date, createdAt=repo.commits[0].date, tags=[], siblings=siblings)
    if wanted := call.query.get("expand"):
        info = {key: value for key, value in info.items() if key in ("_id", "id", *wanted)}
    return _json(info)


def _lfs_entry(file: File, key: str) -> dict[str, Any]:
    pointer = len(lfs_pointer(file.sha256, file.size))
    return {key: file.sha256, "size": file.size, "pointerSize": pointer}


def _entries(repo: Repo, commit: Commit, expand: bool) -> dict[str, dict[str, Any]]:
    """All files and folders of a commit by path, as the tree lists them."""
    entries: dict[str, dict[str, Any]] = {}
    for path, file in sorted(commit.files.items()):
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
        if file.lfs:
            entry["lfs"] = _lfs_entry(file, "oid")
        if file.xet:
            entry["xetHash"] = file.xet
        if expand:
            last = repo.last_change(commit, path)
            entry["lastCommit"] = {"id": last.oid, "title": last.title, "date": last.date}
        for parent in list(Path(path).parents)[:-1]:
            # No client checks the id of a folder: any that changes with its path will do.
            folder = {"type": "directory", "path": str(parent), "oid": git_blob(bytes(parent)), "size": 0}
            entries.setdefault(str(parent), folder)
        entries[path] = entry
    return entries


@_route("GET", f"{_MODEL}/tree{_REV}(?:/(?P<path>.+))?")
def _tree(call: _Handler, repo: Repo, rev: str, path: str) -> Answer:
    commit = _commit_at(repo, rev)
    entries = _entries(repo, commit, call.flag("expand"))
    prefix = f"{path.strip('/')}/" if path else ""
    inside = [entry for name, entry in entries.items() if name.startswith(prefix)]
    if path and not inside:
        raise Refusal(404, f"{path} does not exist on {rev}", "EntryNotFound", X_Repo_Commit=commit.oid)
    deep = call.flag("recursive")
    return _json([entry for entry in inside if deep or "/" not in entry["path"][len(prefix) :]])


@_route("POST", f"{_MODEL}/paths-info{_REV}")
def _paths_info(call: _Handler, repo: Repo, rev: str) -> Answer:
    form = parse_qs(call.body().decode())
    expand = form.get("expand", [""])[0].lower() == "true"
    entries = _entries(repo, _commit_at(repo, rev), expand)
    paths = [path.strip("/") for path in form.get("paths", [])]
    return _json([entries[path] for path in paths if path in entries])


@_route("GET", f"{_MODEL}/refs")
def _refs(call: _Handler, repo: Repo) -> Answer:
    def listed(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": n, "ref": f"refs/{kind}/{n}", "targetCommit": oid} for n, oid in refs.items()]

    branches, tags = listed("heads", repo.branches), listed("tags", repo.tags)
    return _json({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


@_route("GET", f"{_MODEL}/commits{_REV}")
def _commits(call: _Handler, repo: Repo, rev: str) -> Answer:
    listed = []
    for commit in repo.history(_commit_at(repo, rev)):
        entry = {"id": commit.oid, "title": commit.title, "message": commit.message, "date": commit.date}
        listed.append({**entry, "authors": [{"user": commit.author}]})
    return _json(listed)


@_route("POST", f"{_MODEL}/(?P<kind>tag|branch){_REV}", write=True)
def _create_ref(call: _Handler, repo: Repo, kind: str, rev: str) -> Answer:
    """A tag is posted to the revision it names, a branch to its own name."""
    asked = call.json()
    refs = repo.tags if kind == "tag" else repo.branches
    name, target = (asked["tag"], rev) if kind == "tag" else (rev, asked.get("startingPoint") or "main")
    if name in refs:
        raise Refusal(409, f"{kind.capitalize()} already exists: {name}")
    refs[name] = _commit_at(repo, target).oid
    call.hub.store.save(repo)
    return _json({})


@_route("DELETE", f"{_MODEL}/(?P<kind>tag|branch){_REV}", write=True)
def _delete_ref(call: _Handler, repo: Repo, kind: str, rev: str) -> Answer:
    refs = repo.tags if kind == "tag" else repo.branches
    if rev not in refs or (kind, rev) == ("branch", "main"):
        raise Refusal(404, f"Invalid rev id: {rev}", "RevisionNotFound")
    del refs[rev]
    call.hub.store.save(repo)
    return _json({})


@_route("GET HEAD", f"{_REPO}/resolve{_REV}/(?P<path>.+)")
def _resolve(call: _Handler, repo: Repo, rev: str, path: str) -> Answer:
    commit = _commit_at(repo, rev)
    file = commit.files.get(path)
    if file is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.oid)
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
    headers["Content-Type"] = "application/octet-stream"
    if file.lfs:
        headers.update({"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(file.size)})
    if file.xet:
        refresh = f"{call.hub.url}/api/models/{repo.id}/xet-read-token/{commit.oid}"
        headers.update({"X-Xet-Hash": file.xet, "Link": f'<{refresh}>; rel="xet-auth"'})
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
    if not asked or asked[0] == "bytes=-":
        return Answer(200, (file.place, 0, file.size), headers)
    first, last = asked.groups()
    start = int(first) if first else max(0, file.size - int(last))
    end = min(int(last), file.size - 1) if first and last else file.size - 1
    if start > end:
        raise Refusal(416, "Range Not Satisfiable", Content_Range=f"bytes */{file.size}")
    headers["Content-Range"] = f"bytes {start}-{end}/{file.size}"
    return Answer(206, (file.place, start, end - start + 1), headers)


def read_token(path: Path) -> str:
    """The token in a file, which is made, for its owner's eyes only, if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    token = f"hf_{secrets.token_hex(17)}"
    with os.fdopen(handle, "w") as out:
        out.write(token)
    return token


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A Hugging Face Hub on 127.0.0.1, for trying things out.")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the repos")
    parser.add_argument("--port", type=int, default=0, help="0, the default, takes a free one")
    parser.add_argument("--user", required=True, help="user name, the namespace of the repos")
    parser.add_argument("--token-file", type=Path, required=True, help="the user's token; made if missing")
    parser.add_argument("--url-file", type=Path, help="file to write the URL to")
    args = parser.parse_args(argv)
    token = read_token(args.token_file)
    if not token:
        parser.error(f"{args.token_file} is empty")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with LoopbackHub(args.root, {token: Token(args.user)}, args.port) as hub:
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        if args.url_file:
            write_atomic(args.url_file, hub.url.encode())
        stop.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""A small Hugging Face Hub on 127.0.0.1, with faults on demand: `make sample` and the tests publish to it.

The unmodified huggingface_hub client talks to it through HF_ENDPOINT. It serves what this project uses of the
Hub's HTTP API for model repositories, but not its xet storage (set HF_HUB_DISABLE_XET=1), and forgets the
repositories when it ends. Standard library only.

    python tools/loopback_hub.py --root DIR --user ada --token-file FILE
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hashlib
import json
import re
import secrets
import signal
import socket
import socketserver
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".png", ".pt")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)


@dataclass(frozen=True)
class Token:
    """Whose token it is and what it may do: the role is "write" or "read"."""

    user: str
    role: str = "write"


@dataclass
class Fault:
    """What goes wrong with the next matching requests.

    Attributes:
        kind: ``status`` answers with an error, ``html`` with a web page and status 200; ``lost_answer`` does
            the work and hangs up; ``cut_upload``, ``cut_download`` hang up halfway; ``flip_byte`` changes a
            byte of the answer.
        method, path: the requests that it hits; ``path`` is a regular expression.
        status, code, message, headers: of an error, as the Hub sends them.
        times: how many requests it hits; None for all.
    """

    kind: Literal["status", "html", "lost_answer", "cut_upload", "cut_download", "flip_byte"]
    method: str = "GET"
    path: str = ""
    status: int = 503
    code: str = ""
    message: str = "injected fault"
    headers: dict[str, str] = field(default_factory=dict)
    times: int | None = 1

    def strikes(self, method: str, path: str) -> bool:
        """Whether this request is hit; counts it."""
        if self.times == 0 or self.method != method or not re.search(self.path, path):
            return False
        self.times = None if self.times is None else self.times - 1
        return True


class Request(NamedTuple):
    """One request that has been made."""

    method: str
    path: str


@dataclass(frozen=True)
class File:
    """One file of a commit, its content in the file ``place``."""

    place: Path
    lfs: bool

    @property
    def content(self) -> bytes:
        """Its bytes."""
        return self.place.read_bytes()

    @property
    def size(self) -> int:
        """The number of its bytes."""
        return self.place.stat().st_size

    @property
    def sha256(self) -> str:
        """The hash of its content, by which that is stored."""
        return self.place.name

    @property
    def oid(self) -> str:
        """Its git blob id; of the pointer, for an LFS file."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        blob = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        """The hash by which the client checks its content."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    """One commit: all files of its tree, by path."""

    oid: str
    title: str
    files: dict[str, File]


@dataclass
class Repo:
    """One model repository: its commits, oldest first, and the tags on them."""

    id: str
    private: bool
    hub: LoopbackHub = field(repr=False)
    commits: list[Commit] = field(default_factory=list, repr=False)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """The user whose repository it is."""
        return self.id.split("/")[0]

    @property
    def head(self) -> str:
        """The commit of the main branch."""
        return self.commits[-1].oid

    def at(self, revision: str) -> Commit:
        """The commit that "main", a tag or a full commit id names."""
        oid = self.head if revision in ("", "main") else self.tags.get(revision, revision)
        for commit in self.commits:
            if commit.oid == oid:
                return commit
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, changes: dict[str, bytes | None], title: str) -> str:
        """Commit contents by path, None to delete one, behind the client's back."""
        files = dict(self.commits[-1].files) if self.commits else {}
        for path, content in changes.items():
            files.pop(path, None)
            if content is not None:
                files[path] = File(self.hub.store(content), path.endswith(LFS_SUFFIXES))
        return self.record(files, title)

    def record(self, files: dict[str, File], title: str) -> str:
        """Append a commit of exactly these files."""
        self.commits.append(Commit(secrets.token_hex(20), title, files))
        return self.head


class Refusal(Exception):
    """An error answer, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        self.answer = _json({"error": message}, status)
        self.answer.headers |= {"X-Error-Message": message, "X-Error-Code": code, **headers}


@dataclass
class Answer:
    """A status, a body and headers."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def _json(value: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class LoopbackHub:
    """The Hub itself: serves from ``with`` to its end.

    Attributes:
        requests: what has been asked, in order.
        faults: what is to go wrong; the first that strikes a request wins.
        before_commit: called with the repository before a client's commit is looked at.
    """

    def __init__(self, root: Path, tokens: dict[str, Token]) -> None:
        self.tokens = dict(tokens)
        self.objects = root / "objects"  # file contents, each named by its SHA-256
        self.objects.mkdir(parents=True, exist_ok=True)
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.before_commit: Callable[[Repo], object] | None = None
        self.lock = threading.RLock()  # of all of the above
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def store(self, content: bytes) -> Path:
        """Keep a file's content; returns where."""
        place = self.objects / hashlib.sha256(content).hexdigest()
        part = place.with_name(f"{secrets.token_hex(8)}.part")
        part.write_bytes(content)
        return part.replace(place)

    def repo(self, repo_id: str) -> Repo | None:
        """The repository of this name."""
        return self.repos.get(repo_id)

    def create(self, repo_id: str, private: bool = True) -> Repo:
        """A new repository, with the first commit that the Hub makes."""
        repo = self.repos[repo_id] = Repo(repo_id, private, self)
        repo.commit({".gitattributes": GITATTRIBUTES.encode()}, "initial commit")
        return repo

    def __enter__(self) -> LoopbackHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    hub: LoopbackHub

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer asks DNS for a name, which can take seconds

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no error
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, applies faults, sends answers."""

    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def serve(self) -> None:
        """Answer one request."""
        self.hub, address = self.server.hub, urlsplit(self.path)
        self.left = int(self.headers.get("Content-Length") or 0)
        self.token = self.hub.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "))
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, address.path))
            fault = next((f for f in self.hub.faults if f.strikes(self.command, address.path)), None)
        kind = fault.kind if fault else ""
        if kind == "cut_upload":
            self.rfile.read(self.left // 2)
            return self._hang_up()
        if fault and kind == "status":
            answer = Refusal(fault.status, fault.message, fault.code, **fault.headers).answer
        elif kind == "html":
            answer = Answer(200, b"<html><title>Log in</title></html>", {"Content-Type": "text/html"})
        else:
            answer = self._answer(address.path)
        self.body()  # what is left of it would be taken for the next request
        if kind == "lost_answer":
            return self._hang_up()
        self._send(answer, kind)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve  # noqa: N815

    def body(self) -> bytes:
        """The request body, which can be read once."""
        length, self.left = self.left, 0
        content = self.rfile.read(length)
        if len(content) < length:
            raise ConnectionResetError
        return content

    def json(self) -> dict[str, Any]:
        """The request body, parsed."""
        value: dict[str, Any] = json.loads(self.body() or b"{}")
        return value

    def _answer(self, path: str) -> Answer:
        try:
            if self.token is None and "Authorization" in self.headers:
                raise Refusal(401, "Invalid credentials in Authorization header")
            for methods, pattern, handle, write in _ROUTES:
                if self.command in methods and (match := pattern.fullmatch(path)):
                    found: dict[str, Any] = {k: unquote(v or "") for k, v in match.groupdict().items()}
                    if "repo" in found:
                        found["repo"] = self._repo(found["repo"], write)
                    return handle(self, **found)
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        except Refusal as refusal:
            return refusal.answer

    def _repo(self, repo_id: str, write: bool) -> Repo:
        """The repository, if this token may see it, and write to it if asked; the rest is hidden."""
        repo, token = self.hub.repo(repo_id), self.token
        hidden = repo is None or (repo.private and (token is None or token.user != repo.owner))
        if token is None and (hidden or write):
            raise Refusal(401, "Invalid username or password.", "RepoNotFound" if hidden else "")
        if repo is None or hidden:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write:
            self.check_write(repo.owner)
        return repo

    def check_write(self, owner: str) -> None:
        """Raise Refusal unless the caller's token may write to this namespace."""
        if self.token is None:
            raise Refusal(401, "Invalid username or password.")
        if self.token.role == "read":
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        if self.token.user != owner:
            raise Refusal(403, f'You don\'t have the rights to write under the namespace "{owner}"')

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):  # the client has already
            self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, answer: Answer, kind: str) -> None:
        body, half = answer.body, len(answer.body) // 2
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if kind == "flip_byte":
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
        self.wfile.write(body[:half] if kind == "cut_download" else body)
        if kind == "cut_download":
            self._hang_up()


_Handle = Callable[..., Answer]


_ROUTES: list[tuple[list[str], re.Pattern[str], _Handle, bool]] = []
_REPO = "/(?P<repo>[^/]+/[^/]+)"
_MODEL = f"/api/models{_REPO}"
_REV = "/(?P<rev>[^/]+)"


def _route(methods: str, pattern: str, write: bool = False) -> Callable[[_Handle], _Handle]:
    """Serve these addresses; with ``write``, only to who may write."""

    def add(handle: _Handle) -> _Handle:
        _ROUTES.append((methods.split(), re.compile(pattern), handle, write))
        return handle

    return add


@_route("POST", "/api/repos/create")
def _create_repo(call: _Handler) -> Answer:
    asked = call.json()
    if call.token is None:
        raise Refusal(401, "Invalid username or password.")
    repo_id = f"{asked.get('organization') or call.token.user}/{asked['name']}"
    answer = {"url": f"{call.hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
    owner = repo_id.split("/")[0]
    with call.hub.lock:
        # the Hub looks at the name before the role: a read token learns that the repository exists
        if call.token.user == owner and call.hub.repo(repo_id):
            return _json({"error": "You already created this model repo", **answer}, 409)
        call.check_write(owner)
        call.hub.create(repo_id, asked["visibility"] == "private")
    return _json(answer)


@_route("PUT", f"{_MODEL}/settings", write=True)
def _settings(call: _Handler, repo: Repo) -> Answer:
    repo.private = call.json()["visibility"] == "private"
    return _json({"private": repo.private})


@_route("GET", f"{_MODEL}/auth-check/write", write=True)
def _auth_check(call: _Handler, repo: Repo) -> Answer:
    return _json({})


@_route("POST", "/api/validate-yaml")
def _validate_yaml(call: _Handler) -> Answer:
    return _json({"errors": [], "warnings": []})


@_route("POST", f"{_MODEL}/preupload{_REV}", write=True)
def _preupload(call: _Handler, repo: Repo, rev: str) -> Answer:
    here = repo.at(rev).files
    answer = []
    for file in call.json()["files"]:
        path = file["path"]
        mode = "lfs" if file["size"] and path.endswith(LFS_SUFFIXES) else "regular"
        oid = here[path].etag if path in here else None  # what the client has compared its own with
        answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return _json({"files": answer})


@_route("POST", rf"{_REPO}\.git/info/lfs/objects/batch", write=True)
def _lfs_batch(call: _Handler, repo: Repo) -> Answer:
    objects: list[dict[str, Any]] = call.json()["objects"]
    for item in objects:
        if not (call.hub.objects / item["oid"]).is_file():
            item["actions"] = {"upload": {"href": f"{call.hub.url}/lfs-upload/{item['oid']}"}}
    return _json({"transfer": "basic", "objects": objects})


@_route("PUT", "/lfs-upload/(?P<oid>[0-9a-f]+)")  # without a token, as storage with signed addresses
def _lfs_upload(call: _Handler, oid: str) -> Answer:
    if call.hub.store(call.body()).name != oid:
        raise Refusal(400, "The content does not match its sha256")
    return Answer(200, b"")


@_route("POST", f"{_MODEL}/commit{_REV}", write=True)
def _commit(call: _Handler, repo: Repo, rev: str) -> Answer:
    lines = [json.loads(line) for line in call.body().splitlines() if line.strip()]
    header = next(line["value"] for line in lines if line["key"] == "header")
    if call.hub.before_commit:
        call.hub.before_commit(repo)
    with call.hub.lock:
        if header.get("parentCommit") not in (None, repo.head):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(repo.at(rev).files)
        for line in lines:
            _change(call.hub, files, line["key"], line["value"])
        head = repo.record(files, header["summary"])
    url = f"{call.hub.url}/{repo.id}/commit/{head}"
    return _json({"success": True, "commitOid": head, "commitUrl": url, "hookOutput": ""})


def _change(hub: LoopbackHub, files: dict[str, File], key: str, value: dict[str, Any]) -> None:
    """Do what one line of a commit says."""
    if key == "file":
        files[value["path"]] = File(hub.store(base64.b64decode(value["content"])), lfs=False)
    elif key == "lfsFile":
        if not (hub.objects / value["oid"]).is_file():
            raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['oid']}")
        files[value["path"]] = File(hub.objects / value["oid"], lfs=True)
    elif key == "deletedFile":
        files.pop(value["path"])


@_route("GET", f"{_MODEL}(?:/revision{_REV})?")
def _model_info(call: _Handler, repo: Repo, rev: str) -> Answer:
    commit = repo.at(rev)
    info = {"_id": repo.id, "id": repo.id, "modelId": repo.id, "author": repo.owner, "sha": commit.oid}
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    return _json({**info, "private": repo.private, "gated": False, "tags": [], "siblings": siblings})


@_route("GET", f"{_MODEL}/tree{_REV}")
def _tree(call: _Handler, repo: Repo, rev: str) -> Answer:
    entries = []
    for path, file in sorted(repo.at(rev).files.items()):
        entry: dict[str, Any] = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
        if file.lfs:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
        entries.append(entry)
    return _json(entries)


@_route("GET", f"{_MODEL}/refs")
def _refs(call: _Handler, repo: Repo) -> Answer:
    tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in repo.tags.items()]
    main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}
    return _json({"branches": [main], "tags": tags, "converts": [], "pullRequests": []})


@_route("POST", f"{_MODEL}/tag{_REV}", write=True)
def _create_tag(call: _Handler, repo: Repo, rev: str) -> Answer:
    name = call.json()["tag"]
    if name in repo.tags:
        raise Refusal(409, f"Tag already exists: {name}")
    repo.tags[name] = repo.at(rev).oid
    return _json({})


@_route("DELETE", f"{_MODEL}/tag{_REV}", write=True)
def _delete_tag(call: _Handler, repo: Repo, rev: str) -> Answer:
    repo.tags.pop(rev, None)
    return _json({})


@_route("GET HEAD", f"{_REPO}/resolve{_REV}/(?P<path>.+)")
def _resolve(call: _Handler, repo: Repo, rev: str, path: str) -> Answer:
    commit = repo.at(rev)
    file = commit.files.get(path)
    if file is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"'}
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(file.size)}
    return Answer(200, file.content, headers)


def read_token(path: Path) -> str:
    """The token in a file, which is made, for its owner's eyes only, if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(0o600)
    if not path.read_text().strip():
        path.write_text(f"hf_{secrets.token_hex(17)}")
    return path.read_text().strip()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A small Hugging Face Hub on 127.0.0.1.")
    parser.add_argument("--root", type=Path, required=True, help="folder for the files that are uploaded")
    parser.add_argument("--user", required=True, help="user name, the namespace of the repositories")
    parser.add_argument("--token-file", type=Path, required=True, help="the user's token; made if missing")
    parser.add_argument("--url-file", type=Path, help="file to write the URL to")
    options = parser.parse_args()
    token = read_token(options.token_file)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with LoopbackHub(options.root, {token: Token(options.user)}) as hub:
        print(f"HF_ENDPOINT={hub.url} HF_HUB_DISABLE_XET=1", flush=True)  # for the client's environment
        if options.url_file:
            options.url_file.write_text(hub.url)
        stop.wait()


if __name__ == "__main__":
    main()

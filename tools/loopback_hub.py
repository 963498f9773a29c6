"""A small Hugging Face Hub on 127.0.0.1, with faults on demand: `make sample` and the tests publish to it.

The unmodified huggingface_hub client talks to it through HF_ENDPOINT. It serves what this project uses of the
Hub's HTTP API for model repositories, but not its xet storage (set HF_HUB_DISABLE_XET=1), keeps everything in
memory and forgets it when it ends. Standard library only.

    python tools/loopback_hub.py --user ada --token-file TOKEN --url-file URL
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
from functools import cached_property
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".bin", ".parquet", ".png", ".pt")
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)


class Token(NamedTuple):
    """Whose token it is and what it may do: the role is "write", "read" or, of nobody, "none"."""

    user: str
    role: str = "write"


NOBODY = Token("", "none")


class Request(NamedTuple):
    """One request that has been made."""

    method: str
    path: str


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

    def strikes(self, request: Request) -> bool:
        """Whether this request is hit; counts it."""
        if self.times == 0 or self.method != request.method or not re.search(self.path, request.path):
            return False
        self.times = None if self.times is None else self.times - 1
        return True


@dataclass(frozen=True)
class File:
    """One file of a commit, and whether it is stored as LFS."""

    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        """The hash of its content."""
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def oid(self) -> str:
        """Its git blob id; of the pointer, for an LFS file."""
        size = len(self.content)
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n"
        blob = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        """The hash by which the client checks its content."""
        return self.sha256 if self.lfs else self.oid


class Commit(NamedTuple):
    """One commit: all files of its tree, by path."""

    oid: str
    title: str
    files: dict[str, File]


@dataclass
class Repo:
    """One model repository: its commits, oldest first, and the tags on them."""

    id: str
    private: bool
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
        """Commit contents by path, None to delete one; returns the commit's id."""
        files = dict(self.commits[-1].files) if self.commits else {}
        for path, content in changes.items():
            files.pop(path, None)
            if content is not None:
                files[path] = File(content, path.endswith(LFS_SUFFIXES))
        self.commits.append(Commit(secrets.token_hex(20), title, files))
        return self.head


class Answer(NamedTuple):
    """A status, a body and headers."""

    status: int
    body: bytes
    headers: dict[str, str]


def _json(value: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


class Refusal(Exception):
    """An error answer, as the Hub words it."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str) -> None:
        super().__init__(message)
        headers |= {"X-Error-Message": message, "X-Error-Code": code}
        self.answer = _json({"error": message}, status, **headers)


class LoopbackHub(socketserver.ThreadingTCPServer):
    """The Hub itself: serves from ``with`` to its end.

    Attributes:
        requests: what has been asked, in order.
        faults: what is to go wrong; the first that strikes a request wins.
        before_commit: called with the repository before a client's commit is looked at.
    """

    daemon_threads, request_queue_size = True, 128

    def __init__(self, tokens: dict[str, Token]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tokens = dict(tokens)
        self.uploads: dict[str, bytes] = {}  # contents of LFS files by SHA-256
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.before_commit: Callable[[Repo], object] | None = None
        self.lock = threading.RLock()  # of all of the above
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, repo_id: str, private: bool = True) -> Repo:
        """A new repository, with the first commit that the Hub makes."""
        repo = self.repos[repo_id] = Repo(repo_id, private)
        repo.commit({".gitattributes": GITATTRIBUTES.encode()}, "initial commit")
        return repo

    def __enter__(self) -> LoopbackHub:
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print a traceback, unless the client just went away."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, applies faults, sends answers."""

    server: LoopbackHub
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def log_message(self, format: str, *args: object) -> None:
        pass

    def serve(self) -> None:
        """Answer one request."""
        self.hub, path = self.server, urlsplit(self.path).path
        secret = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.token = self.hub.tokens.get(secret, NOBODY)
        with self.hub.lock:
            self.hub.requests.append(request := Request(self.command, path))
            fault = next((fault for fault in self.hub.faults if fault.strikes(request)), None)
        kind, length = fault.kind if fault else "", int(self.headers.get("Content-Length") or 0)
        self.content = self.rfile.read(length // 2 if kind == "cut_upload" else length)
        if fault and kind == "status":
            answer = Refusal(fault.status, fault.message, fault.code, **fault.headers).answer
        elif kind == "html":
            answer = Answer(200, b"<html><title>Log in</title></html>", {"Content-Type": "text/html"})
        elif len(self.content) == length:
            answer = self._answer(path)
        if kind == "lost_answer" or len(self.content) < length:
            return self._hang_up()
        self._send(answer, kind)

    do_GET = do_HEAD = do_POST = do_PUT = serve  # noqa: N815

    def _answer(self, path: str) -> Answer:
        try:
            if self.token is NOBODY and "Authorization" in self.headers:
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
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self.token.user != repo.owner):
            raise Refusal(401 if self.token is NOBODY else 404, "Repository not found", "RepoNotFound")
        if write:
            self.check_write(repo.owner)
        return repo

    def check_write(self, owner: str) -> None:
        """Raise Refusal unless the caller's token may write to this namespace."""
        if self.token is NOBODY:
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
    asked = json.loads(call.content)
    owner = asked["organization"]
    repo_id = f"{owner}/{asked['name']}"
    answer = {"url": f"{call.hub.url}/{repo_id}", "name": repo_id, "id": repo_id}
    with call.hub.lock:
        # the Hub looks at the name before the role: a read token learns that the repository exists
        if call.token.user == owner and repo_id in call.hub.repos:
            return _json({"error": "You already created this model repo", **answer}, 409)
        call.check_write(owner)
        call.hub.create(repo_id, asked["visibility"] == "private")
    return _json(answer)


@_route("PUT", f"{_MODEL}/settings", write=True)
def _settings(call: _Handler, repo: Repo) -> Answer:
    repo.private = json.loads(call.content)["visibility"] == "private"
    return _json({"private": repo.private})


@_route("POST", "/api/validate-yaml")
@_route("GET", f"{_MODEL}/auth-check/write", write=True)
def _accept(call: _Handler, repo: Repo | None = None) -> Answer:
    return _json({"errors": [], "warnings": []})


@_route("POST", f"{_MODEL}/preupload{_REV}", write=True)
def _preupload(call: _Handler, repo: Repo, rev: str) -> Answer:
    here = repo.at(rev).files
    answer = []
    for file in json.loads(call.content)["files"]:
        path = file["path"]
        mode = "lfs" if file["size"] and path.endswith(LFS_SUFFIXES) else "regular"
        oid = here[path].etag if path in here else None  # what the client has compared its own with
        answer.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return _json({"files": answer})


@_route("POST", rf"{_REPO}\.git/info/lfs/objects/batch", write=True)
def _lfs_batch(call: _Handler, repo: Repo) -> Answer:
    objects: list[dict[str, Any]] = json.loads(call.content)["objects"]
    for item in objects:
        if item["oid"] not in call.hub.uploads:
            item["actions"] = {"upload": {"href": f"{call.hub.url}/lfs-upload/{item['oid']}"}}
    return _json({"transfer": "basic", "objects": objects})


@_route("PUT", "/lfs-upload/(?P<oid>[0-9a-f]+)")  # without a token, as storage with signed addresses
def _lfs_upload(call: _Handler, oid: str) -> Answer:
    call.hub.uploads[oid] = call.content
    return Answer(200, b"", {})


@_route("POST", f"{_MODEL}/commit{_REV}", write=True)
def _commit(call: _Handler, repo: Repo, rev: str) -> Answer:
    lines = [(line["key"], line["value"]) for line in map(json.loads, call.content.splitlines())]
    header = dict(lines)["header"]
    if call.hub.before_commit:
        call.hub.before_commit(repo)
    changes: dict[str, bytes | None] = {}
    for key, value in lines:
        if key == "file":
            changes[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            changes[value["path"]] = call.hub.uploads[value["oid"]]
        elif key == "deletedFile":
            changes[value["path"]] = None
    with call.hub.lock:
        if header.get("parentCommit") not in (None, repo.head):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        head = repo.commit(changes, header["summary"])
    return _json({"commitOid": head, "commitUrl": f"{call.hub.url}/{repo.id}/commit/{head}"})


@_route("GET", f"{_MODEL}(?:/revision{_REV})?")
def _model_info(call: _Handler, repo: Repo, rev: str) -> Answer:
    commit = repo.at(rev)
    siblings = [{"rfilename": path} for path in sorted(commit.files)]
    return _json({"id": repo.id, "sha": commit.oid, "private": repo.private, "siblings": siblings})


@_route("GET", f"{_MODEL}/tree{_REV}")
def _tree(call: _Handler, repo: Repo, rev: str) -> Answer:
    entries = []
    for path, file in sorted(repo.at(rev).files.items()):
        size = len(file.content)
        lfs = {"oid": file.sha256, "size": size, "pointerSize": 130} if file.lfs else None
        entries.append({"type": "file", "path": path, "oid": file.oid, "size": size, "lfs": lfs})
    return _json(entries)


@_route("POST", f"{_MODEL}/tag{_REV}", write=True)
def _create_tag(call: _Handler, repo: Repo, rev: str) -> Answer:
    name = json.loads(call.content)["tag"]
    if name in repo.tags:
        raise Refusal(409, f"Tag already exists: {name}")
    repo.tags[name] = repo.at(rev).oid
    return _json({})


@_route("GET HEAD", f"{_REPO}/resolve{_REV}/(?P<path>.+)")
def _resolve(call: _Handler, repo: Repo, rev: str, path: str) -> Answer:
    commit = repo.at(rev)
    file = commit.files.get(path)
    if file is None:
        raise Refusal(404, "Entry not found", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
    headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{file.etag}"'}
    if file.lfs:
        headers |= {"X-Linked-ETag": f'"{file.etag}"', "X-Linked-Size": str(len(file.content))}
    return Answer(200, file.content, headers)


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A small Hugging Face Hub on 127.0.0.1.")
    parser.add_argument("--user", required=True, help="user name, the namespace of the repositories")
    parser.add_argument("--token-file", type=Path, required=True, help="where the user's token is written to")
    parser.add_argument("--url-file", type=Path, required=True, help="where the URL is written to")
    options = parser.parse_args()
    token, signals = f"hf_{secrets.token_hex(17)}", {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)  # until they are waited for
    with LoopbackHub({token: Token(options.user)}) as hub:
        for path, text in ((options.token_file, token), (options.url_file, hub.url)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(0o600)  # for its owner's eyes only
            path.write_text(text)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()

"""The Hub as this pipeline uses it: bounded retries, one-line errors, and files compared by hash.

No message made here can hold the token: errors name the call, the status and the server's own reason.
"""

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import sha256_file
from goodreads.common.progress import log

ATTEMPTS, FIRST_PAUSE = 4, 0.5  # tries of a call; seconds before the second, doubled each time
TIMEOUT = 60.0  # seconds without an answer; the client's own default is to wait for ever
TRANSIENT = {408, 429, 500, 502, 503, 504}
ERRORS = (HfHubHTTPError, httpx2.HTTPError, HFValidationError, LocalEntryNotFoundError, OSError, RuntimeError)

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """A file of one commit: ``sha256`` for an LFS file, else ``blob`` (git's SHA-1)."""

    size: int
    blob: str
    sha256: str | None

    def is_same_as(self, path: Path) -> bool:
        """Whether there is a local file with these bytes, judged by the hash that the Hub gives."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        return (
            sha256_file(path) == self.sha256 if self.sha256 else git_blob_sha1(path.read_bytes()) == self.blob
        )


def connect() -> HfApi:
    """The client, with a time limit on every call and the token of HF_TOKEN_FILE, HF_TOKEN or the login.

    Raises:
        InputError: HF_TOKEN_FILE cannot be read.
    """
    huggingface_hub.set_client_factory(_client)
    huggingface_hub.utils.disable_progress_bars()
    token = huggingface_hub.get_token()
    if path := os.environ.get("HF_TOKEN_FILE"):
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"HF_TOKEN_FILE={path} cannot be read: {error}") from None
    return HfApi(token=token or False)


def _client() -> httpx2.Client:
    hook = huggingface_hub.utils._http.hf_request_event_hook
    return httpx2.Client(event_hooks={"request": [hook]}, follow_redirects=True, timeout=TIMEOUT)


def attempt(what: str, call: Callable[[], T], attempts: int = ATTEMPTS) -> T:
    """The result of an idempotent call, tried again after a passing failure.

    Raises:
        InputError: it failed for good; the message names ``what``.
    """
    for number in range(1, attempts + 1):
        try:
            return call()
        except ERRORS as error:
            if number == attempts or not is_passing(error):
                raise InputError(f"{what}: {reason(error)}") from None
            pause = FIRST_PAUSE * 2 ** (number - 1)
            log.warning("%s: %s; again in %.1f s", what, reason(error), pause)
            time.sleep(pause)
    raise AssertionError("the loop returns or raises")


def is_passing(error: Exception) -> bool:
    """Whether trying again may help."""
    status = _status(error)
    if status:
        return status in TRANSIENT
    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return is_passing(error.__cause__)
    return isinstance(error, httpx2.TransportError | RuntimeError)


def reason(error: Exception) -> str:
    """Why a call failed, in one line without the request, whose headers hold the token."""
    if isinstance(error, RepositoryNotFoundError):
        return "no such repository, or a private one that this token cannot see"
    if isinstance(error, RevisionNotFoundError):
        return "no such revision"
    status = _status(error)
    if status == 401:
        return "the Hub refuses the token (401); give a valid one in HF_TOKEN"
    if status == 403:
        return "the token may not do this (403); give one with write access in HF_TOKEN"
    if status:
        return f"the Hub answered {status}"
    if isinstance(error, httpx2.TransportError):
        return f"the Hub at {huggingface_hub.constants.ENDPOINT} cannot be reached ({type(error).__name__})"
    if isinstance(error, RuntimeError | LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return reason(error.__cause__)
    return " ".join(str(error).split())


def _status(error: BaseException | None) -> int | None:
    response = getattr(error, "response", None)
    if response is None and isinstance(error, RuntimeError | LocalEntryNotFoundError):
        response = getattr(error.__cause__, "response", None)
    return None if response is None else int(response.status_code)


def remote_files(info: Any) -> dict[str, RemoteFile]:
    """File name -> hashes, from ``model_info(files_metadata=True)``."""
    return {
        file.rfilename: RemoteFile(file.size, file.blob_id, file.lfs.sha256 if file.lfs else None)
        for file in info.siblings or []
    }


def git_blob_sha1(content: bytes) -> str:
    """The name that git gives to a file with this content (git hash-object)."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def download(repo: str, revision: str | None, cache: Path, folder: Path) -> dict[str, Any]:
    """Put a model's files at one commit into a folder, each checked against the Hub's hash.

    Args:
        repo: ``user/name``.
        revision: branch, tag or commit; the Hub resolves it, whatever the cache holds.
        cache: a folder in the layout of huggingface_hub's cache. A file in it is used if its hash is the
            Hub's, and fetched anew if not; nothing else in it counts.
        folder: made here, with links into the cache.

    Returns:
        What is known of the files' origin, for the results file.

    Raises:
        InputError: no such repository or revision, no access, the Hub is down, the cache cannot be written.
        CheckFailed: a fetched file is not what the Hub says it is.
    """
    api, what = connect(), f"--model {repo}" + (f" --revision {revision}" if revision else "")
    info = attempt(what, lambda: api.model_info(repo, revision=revision, files_metadata=True))
    wanted = {name: file for name, file in remote_files(info).items() if is_model_file(name)}
    storage = cache / "--".join(("models", *repo.split("/")))
    snapshot = storage / "snapshots" / info.sha
    missing = [name for name, file in wanted.items() if not file.is_same_as(snapshot / name)]
    if missing:
        try:
            distrust(storage, info.sha, {name: wanted[name] for name in missing})
        except OSError as error:
            raise InputError(f"the model cache {cache} cannot be written: {error.strerror}") from None
    for name in missing:  # one by one: snapshot_download may answer with an incomplete folder
        attempt(what, partial(api.hf_hub_download, repo, name, revision=info.sha, cache_dir=cache))
    folder.mkdir()
    for name in sorted(wanted):
        if name in missing and not wanted[name].is_same_as(snapshot / name):
            raise CheckFailed(f"{what}: {name} was damaged on the way (its hash is not the Hub's)")
        (folder / name).symlink_to((snapshot / name).resolve())
    cached = len(wanted) - len(missing)
    log.info(
        "%s: commit %s, %d files fetched and %d from the cache, all checked",
        what,
        info.sha,
        len(missing),
        cached,
    )
    return {
        "source": repo,
        "revision": revision,
        "commit": info.sha,
        "private": info.private,
        "cache": f"{cached} of {len(wanted)} files, checked" if cached else "fresh",
        "endpoint": huggingface_hub.constants.ENDPOINT,
    }


def is_model_file(name: str) -> bool:
    """Whether a file of a repository is one that scoring may read; those in its folders are not."""
    return "/" not in name and name.endswith((".json", ".txt", ".safetensors"))


def distrust(storage: Path, commit: str, files: dict[str, RemoteFile]) -> None:
    """Remove what the client would take from its cache unseen: its list of the commit's files, and these.

    Args:
        storage: the repository's folder in the cache.
        commit: the one to fetch.
        files: name -> hashes of the files to fetch.

    Raises:
        OSError: the cache cannot be written to.
    """
    storage.mkdir(parents=True, exist_ok=True)
    (storage / "trees" / f"{commit}.json").unlink(missing_ok=True)
    for name, file in files.items():
        (storage / "snapshots" / commit / name).unlink(missing_ok=True)
        (storage / "blobs" / (file.sha256 or file.blob)).unlink(missing_ok=True)

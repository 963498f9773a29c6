"""The Hugging Face Hub as this pipeline uses it: bounded retries, one-line errors, verified downloads.

Errors name the call, the status and the server's own reason, never the request, whose headers hold the token.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_session, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import disable_progress_bars, parse_ratelimit_headers

from goodreads.common.cli import hide
from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import locked
from goodreads.common.progress import log

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

ATTEMPTS, FIRST_PAUSE = 4, 0.5  # tries of a call; seconds before the second, doubled each time
LONGEST_PAUSE = 120.0  # seconds; a Hub that asks for more gets no second try
TIMEOUT = 60.0  # seconds without an answer; the client's own default is no limit
TRANSIENT = {408, 429, 500, 502, 503, 504}
UNREACHABLE = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)
MEANINGS = (  # most specific first
    (OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, which forbids calls to the Hub; unset it"),
    (GatedRepoError, "a gated repository: ask for access on its page, then use a token of that account"),
    (DisabledRepoError, "the Hub has disabled this repository"),
    (RepositoryNotFoundError, "no such repository, or a private one that this token cannot see"),
    (RevisionNotFoundError, "no such revision"),
    (RemoteEntryNotFoundError, "no such file in the repository"),
)

T = TypeVar("T")


def connect() -> HfApi:
    """The client, with the user's token and a session for all calls.

    Raises:
        InputError: the token, HF_ENDPOINT or the proxy settings cannot be used.
    """
    disable_progress_bars()
    try:
        token = get_token()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {constants.HF_TOKEN_PATH} cannot be read: {error}") from error
    hide(token)
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError("the token holds characters that no token has; copy it again into HF_TOKEN")
    try:
        address = httpx2.URL(constants.ENDPOINT)
    except httpx2.InvalidURL:
        address = httpx2.URL("")
    if address.scheme not in ("http", "https") or not address.host:
        raise InputError(f"HF_ENDPOINT={constants.ENDPOINT} is not an address such as https://huggingface.co")
    try:
        get_session()
    except Exception as error:  # ValueError, ImportError, OSError and more, by the setting that is wrong
        raise InputError(
            "the settings of the connection (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE) "
            f"cannot be used: {error}"
        ) from error
    return HfApi(token=token or False)


def attempt(what: str, call: Callable[[], T], attempts: int = ATTEMPTS) -> T:
    """The result of an idempotent call, repeated after a temporary failure.

    Raises:
        InputError: it failed for good; the message names ``what``.
    """
    for number in range(1, attempts + 1):
        try:
            get_session().timeout = TIMEOUT  # each time: the library replaces a session that failed
            return call()
        except (InputError, CheckFailed, MemoryError):
            raise
        except Exception as error:
            pause = pause_before_retry(error, number)
            if pause is None or number == attempts:
                raise InputError(f"{what}: {reason(error)}") from error
            log.warning("%s: %s; trying again in %.1f s", what, reason(error), pause)
            time.sleep(pause)
    raise AssertionError("the loop returns or raises")


def pause_before_retry(error: Exception, number: int) -> float | None:
    """Seconds to wait after try ``number``; None if another try cannot help or would come too soon."""
    response = _response(error)
    if response is not None:
        asked = _retry_after(response) or 0.0
        if response.status_code not in TRANSIENT or asked > LONGEST_PAUSE:
            return None
        return float(max(asked, FIRST_PAUSE * 2 ** (number - 1)))
    chain = list(_chain(error))
    temporary = any(isinstance(link, UNREACHABLE) for link in chain) or (
        # the library raises these for a transfer that was cut off
        isinstance(error, RuntimeError | OSError)
        and not any(isinstance(link, OfflineModeIsEnabled) or getattr(link, "errno", None) for link in chain)
    )
    return FIRST_PAUSE * 2 ** (number - 1) if temporary else None


def reason(error: Exception) -> str:
    """Why a call failed, in one line."""
    response, chain = _response(error), list(_chain(error))
    meaning = next((text for kind, text in MEANINGS for link in chain if isinstance(link, kind)), None)
    if response is not None:
        said = _server_message(error, response)
        return (meaning or _status_meaning(response)) + (f" (the Hub says: {said})" if said else "")
    if meaning:
        return meaning
    for link in chain:
        if isinstance(link, httpx2.TransportError):
            return f"the Hub at {constants.ENDPOINT} cannot be reached ({type(link).__name__}: {link})"
    if isinstance(error, json.JSONDecodeError | KeyError | TypeError | AttributeError | AssertionError):
        return (
            f"what answers at {constants.ENDPOINT} is not the Hub: its answer cannot be read "
            "(a proxy or a login page in between?)"
        )
    kind = "" if isinstance(error, OSError | HFValidationError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _response(error: Exception) -> "httpx2.Response | None":
    """The answer behind an error, if there was one that was no success."""
    found = (getattr(link, "response", None) for link in _chain(error))
    return next((response for response in found if response is not None and response.is_error), None)


def _status_meaning(response: httpx2.Response) -> str:
    status = response.status_code
    if status == 401:
        sent = "Authorization" in response.request.headers
        return "the Hub refuses the token (401)" if sent else "the Hub wants a token (401): set HF_TOKEN"
    if status == 403:
        return "the Hub refuses this (403)"
    if status == 413:
        return "more than the Hub accepts (413)"
    wait = _retry_after(response)
    return f"the Hub answered {status}" + (f" and asks to wait {wait:.0f} s" if wait else "")


def _server_message(error: Exception, response: httpx2.Response) -> str:
    said = next((text for link in _chain(error) if (text := getattr(link, "server_message", None))), None)
    return " ".join((said or response.headers.get("X-Error-Message") or "").split())[:300]


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that a server asks to wait, by Retry-After or the Hub's rate limit headers."""
    limit = parse_ratelimit_headers(response.headers)
    if response.status_code == 429 and limit and not limit.remaining:
        return float(limit.reset_in_seconds)
    value = response.headers.get("Retry-After", "").strip()
    try:
        if value.isdigit():
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def download(repo: str, revision: str | None, cache_dir: Path | None, folder: Path) -> dict[str, Any]:
    """Put a model's files at one commit into a folder, each checked against the Hub's hash.

    Args:
        repo: ``user/name``.
        revision: branch, tag or commit, resolved by the Hub; None for its main branch.
        cache_dir: keeps the files for later runs, in a folder per commit, which is used if every hash is the
            Hub's, else removed and fetched again. None keeps nothing.
        folder: made here; with ``cache_dir`` a link into it.

    Returns:
        What is known of the files' origin, for the results file.

    Raises:
        InputError: no such repository or revision, no access, the Hub is down, a model that cannot be loaded.
        CheckFailed: a fetched file is not what the Hub says it is.
    """
    api, what = connect(), f"--model {repo}" + (f" --revision {revision}" if revision else "")
    info = attempt(what, lambda: api.model_info(repo, revision=revision))
    wanted = _loadable_files(what, info)
    kept = cache_dir / f"{repo.replace('/', '--')}--{info.sha}" if cache_dir else folder

    def fetch() -> list[str]:
        attempt(
            what,
            lambda: api.snapshot_download(repo, revision=info.sha, local_dir=kept, allow_patterns=wanted),
        )
        return damaged()

    def damaged() -> list[str]:
        seen = attempt(what, lambda: api.verify_repo_checksums(repo, revision=info.sha, local_dir=kept), 1)
        missing = sorted({*wanted} & {*seen.missing_paths})
        return [*(wrong["path"] for wrong in seen.mismatches), *seen.extra_paths, *missing]

    cached = kept.is_dir() and not damaged()
    if not cached:
        with locked(cache_dir) if cache_dir else nullcontext():
            wrong = fetch()
            if wrong and cache_dir:
                log.warning("%s: %s in %s is damaged; fetching all again", what, wrong[0], kept)
                shutil.rmtree(kept)
                wrong = fetch()
        if wrong:
            raise CheckFailed(f"{what}: {wrong[0]} was damaged on the way (its hash is not the Hub's)")
    if cache_dir:
        folder.symlink_to(kept.resolve(), target_is_directory=True)
    if "auto_map" in (folder / "config.json").read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{what}: this model needs code from its repository (auto_map), which is never run")
    log.info("%s: commit %s, %d files, all checked%s", what, info.sha, len(wanted), " (kept)" * cached)
    return {
        "source": repo,
        "revision": revision,
        "commit": info.sha,
        "private": info.private,
        "cache": f"{len(wanted)} of {len(wanted)} files, checked" if cached else "fresh",
        "endpoint": constants.ENDPOINT,
    }


def is_model_file(name: str) -> bool:
    """Whether a file of a repository is one that scoring may read; those in its folders are not."""
    return "/" not in name and name.endswith((".json", ".txt", ".safetensors"))


def _loadable_files(what: str, info: "ModelInfo") -> list[str]:
    """The files to fetch; raises InputError where they would not make a model."""
    files = [sibling.rfilename for sibling in info.siblings or []]
    wanted = sorted(filter(is_model_file, files))
    if "adapter_config.json" in wanted:
        problem = "is an adapter (PEFT): merge it into its base model and publish that"
    elif not any(name.endswith(".safetensors") for name in wanted):
        pickled = [name for name in files if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
        problem = (
            f"has its weights as pickle only ({pickled[0]}), which is never loaded: convert it to safetensors"
            if pickled
            else "has no weights (model.safetensors)"
        )
    elif "config.json" not in wanted:
        problem = "has no config.json, so it is not a transformers model"
    else:
        return wanted
    raise InputError(f"{what}: this repository {problem}")

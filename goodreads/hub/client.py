"""The Hugging Face Hub as this pipeline uses it: bounded retries, one-line errors, verified downloads.

Errors name the call, the status and the Hub's own reason, never the request, whose headers hold the token.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, errors, get_session, get_token
from huggingface_hub.utils import disable_progress_bars, parse_ratelimit_headers

from goodreads.common.cli import hide
from goodreads.common.errors import CheckFailed, InputError
from goodreads.common.files import locked
from goodreads.common.progress import log

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

ATTEMPTS, FIRST_PAUSE = 4, 0.5  # tries of a call; seconds before the second, doubled each time
LONGEST_PAUSE = 120.0  # seconds; a Hub that asks for more is not asked again
TIMEOUT = 60.0  # seconds without an answer; the client's own default is no limit
TRANSIENT = {408, 429, 500, 502, 503, 504}
UNREACHABLE = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError, httpx2.ProxyError)
UNREADABLE = (JSONDecodeError, KeyError, TypeError, AttributeError)  # what the library makes of a web page
MEANINGS = {  # the most specific first
    errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set, which forbids calls to the Hub; unset it",
    errors.GatedRepoError: "a gated repository: ask for access on its page, then use a token of that account",
    errors.DisabledRepoError: "the Hub has disabled this repository",
    errors.RepositoryNotFoundError: "no such repository, or a private one that this token cannot see",
    errors.RevisionNotFoundError: "no such revision",
    errors.RemoteEntryNotFoundError: "no such file in the repository",
}
CHANGED = "was changed by somebody else during the push; look at it and run again"
STATUS = {
    401: "the Hub refuses the token (401)",
    403: "the Hub refuses this (403)",
    **dict.fromkeys((409, 412), f"it {CHANGED}"),
}

T = TypeVar("T")


def connect() -> HfApi:
    """The client, with the user's token.

    Raises:
        InputError: the token, or the settings of the connection, cannot be used.
    """
    disable_progress_bars()
    try:
        hide(token := get_token())
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the token file {constants.HF_TOKEN_PATH} cannot be read: {error}") from error
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError("the token holds characters that no token has; copy it again into HF_TOKEN")
    try:
        get_session()
    except Exception as error:  # of many classes, by the setting that is wrong
        settings = "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY or SSL_CERT_FILE"
        raise InputError(f"{settings} has a value that cannot be used: {error}") from error
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
        except (InputError, CheckFailed):
            raise
        except Exception as error:
            pause = pause_before_retry(error, number)
            if pause is None or number == attempts:
                raise InputError(f"{what}: {reason(error)}") from error
            log.warning("%s: %s; trying again in %.1f s", what, reason(error), pause)
            time.sleep(pause)
    raise AssertionError("the loop returns or raises")


def pause_before_retry(error: Exception, number: int) -> float | None:
    """Seconds to wait after try ``number``; None if another try cannot help or would come too late."""
    response, chain = _response(error), list(_chain(error))
    pause: float = FIRST_PAUSE * 2 ** (number - 1)
    if response is not None:
        pause = max(pause, _retry_after(response))
        return pause if response.status_code in TRANSIENT and pause <= LONGEST_PAUSE else None
    if any(isinstance(link, UNREACHABLE) for link in chain):
        return pause
    local = any(getattr(link, "errno", None) for link in chain)  # a full disk, for example
    cut_off = (
        isinstance(error, RuntimeError | OSError) and not isinstance(error, tuple(MEANINGS)) and not local
    )
    return pause if cut_off else None


def reason(error: Exception) -> str:
    """Why a call failed, in one line."""
    response, chain = _response(error), list(_chain(error))
    meaning = next(
        (text for kind, text in MEANINGS.items() for link in chain if isinstance(link, kind)), None
    )
    if response is not None:
        text = meaning or STATUS.get(response.status_code, f"the Hub answered {response.status_code}")
        wait = _retry_after(response)
        said = [getattr(link, "server_message", None) for link in chain]
        words = " ".join(
            (next(filter(None, said), "") or response.headers.get("X-Error-Message", "")).split()
        )
        text += f" and asks to wait {wait:.0f} s" if wait else ""
        return text + (f" (the Hub says: {words[:300]})" if words else "")
    if meaning:
        return meaning
    for link in chain:
        if isinstance(link, httpx2.TransportError | httpx2.InvalidURL):
            address = constants.ENDPOINT or "HF_ENDPOINT="
            return f"the Hub at {address} cannot be reached ({type(link).__name__}: {link})"
    if isinstance(error, UNREADABLE):
        return f"what answers at {constants.ENDPOINT} is not the Hub (a proxy or a login page in between?)"
    kind = "" if isinstance(error, errors.HFValidationError | OSError) else f"{type(error).__name__}: "
    return " ".join(f"{kind}{error}".split())


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _response(error: Exception) -> "httpx2.Response | None":
    """The refusal by a server that is behind an error, if there is one."""
    found = (getattr(link, "response", None) for link in _chain(error))
    return next((response for response in found if response is not None and response.is_error), None)


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that a server asks to wait, by the Hub's rate limit header or Retry-After; 0 if it does not."""
    limit, asked = parse_ratelimit_headers(response.headers), response.headers.get("Retry-After", "")
    if response.status_code == 429 and limit and not limit.remaining:
        return float(limit.reset_in_seconds)
    if asked.isdigit():
        return float(asked)
    try:
        return max(0.0, (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


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
    fetch = partial(api.snapshot_download, repo, revision=info.sha, local_dir=kept, allow_patterns=wanted)
    verify = partial(api.verify_repo_checksums, repo, revision=info.sha, local_dir=kept)

    def damaged() -> list[str]:
        seen = attempt(what, verify, 1)  # the library itself repeats the requests for this
        missing = sorted({*wanted} & {*seen.missing_paths})
        return [*(wrong["path"] for wrong in seen.mismatches), *seen.extra_paths, *missing]

    is_kept = kept.is_dir() and not damaged()
    if not is_kept:
        with locked(cache_dir) if cache_dir else nullcontext():
            attempt(what, fetch)
            if cache_dir and damaged():
                log.warning("%s is damaged; fetching all of it again", kept)
                shutil.rmtree(kept)
                attempt(what, fetch)
            if wrong := damaged():
                raise CheckFailed(f"{what}: {wrong[0]} was damaged on the way (its hash is not the Hub's)")
    if cache_dir:
        folder.symlink_to(kept.resolve(), target_is_directory=True)
    if "auto_map" in (folder / "config.json").read_text(encoding="utf-8", errors="replace"):
        raise InputError(f"{what}: this model needs code from its repository (auto_map), which is never run")
    log.info("%s: commit %s, %d files, all checked%s", what, info.sha, len(wanted), " (kept)" * is_kept)
    return {
        "source": repo,
        "revision": revision,
        "commit": info.sha,
        "private": info.private,
        "cache": f"{len(wanted)} of {len(wanted)} files, checked" if is_kept else "fresh",
        "endpoint": constants.ENDPOINT,
    }


def is_model_file(name: str) -> bool:
    """Whether a file of a repository is one that scoring may read; those in its folders are not."""
    return "/" not in name and name.endswith((".json", ".txt", ".safetensors"))


def _loadable_files(what: str, info: "ModelInfo") -> list[str]:
    """The files to fetch; raises InputError where they would not make a model."""
    files = [sibling.rfilename for sibling in info.siblings or []]
    wanted = sorted(filter(is_model_file, files))
    pickles = [
        name for name in files if name.endswith((".bin", ".pt", ".pth")) and "training_args" not in name
    ]
    if "adapter_config.json" in files:
        problem = "it is an adapter (PEFT): merge it into its base model and publish that"
    elif "config.json" not in files:
        problem = "it has no config.json"
    elif any(name.endswith(".safetensors") for name in wanted):
        return wanted
    elif pickles:
        problem = (
            f"its weights are pickled ({pickles[0]}), which is never loaded: convert them to safetensors"
        )
    else:
        problem = "it has no weights (model.safetensors)"
    raise InputError(f"{what} cannot be loaded: {problem}")

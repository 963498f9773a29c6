"""The Hugging Face Hub as this pipeline uses it: bounded retries, one-line errors, comparison by hash.

Errors name the call, the status and the Hub's own reason, never the request, whose headers hold the token.
"""

import time
from collections.abc import Callable, Container
from json import JSONDecodeError
from pathlib import Path
from typing import TypeVar

import httpx2
import urllib3
from huggingface_hub import HfApi, constants, errors, get_session, get_token
from huggingface_hub.utils import disable_progress_bars, parse_ratelimit_headers

from goodreads.common.cli import hide
from goodreads.common.errors import InputError
from goodreads.common.progress import log

ATTEMPTS, FIRST_PAUSE = 4, 0.5  # tries of a call; seconds before the second, doubled each time
LONGEST_PAUSE = 120.0  # seconds; a Hub that asks for more is not asked again
TIMEOUT = 60.0  # seconds without an answer; the client's own default is no limit
TRANSIENT = {408, 429, 500, 502, 503, 504}
NOT_THE_HUB = (JSONDecodeError, KeyError, TypeError, AttributeError)  # what the client makes of a web page
HINTS: dict[object, str] = {  # what a refusal means, by its class or status
    errors.RepositoryNotFoundError: "no such repository, or a private one that this token cannot see; ",
    errors.RevisionNotFoundError: "no such revision; ",
    401: "the Hub refuses the token (401); ",
    **dict.fromkeys((409, 412), "it was changed by somebody else during the push; look, then run again; "),
}

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


def connect() -> HfApi:
    """The client, with the user's token.

    Raises:
        InputError: the token, or the settings of the connection, cannot be used.
    """
    disable_progress_bars()
    try:
        hide(token := get_token())
        get_session()
    except Exception as error:  # of many classes, by the setting that is wrong
        raise InputError(f"HF_TOKEN_PATH, HTTP(S)_PROXY, ALL_PROXY or SSL_CERT_FILE: {error}") from error
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError("the token holds characters that no token has; copy it again into HF_TOKEN")
    return HfApi(token=token or False)


def attempt(what: str, call: Callable[[], T]) -> T:
    """The result of an idempotent call, repeated after a temporary failure.

    Raises:
        InputError: it failed for good; the message names ``what``.
    """
    for number in range(1, ATTEMPTS + 1):
        try:
            get_session().timeout = TIMEOUT  # each time: the library replaces a session that failed
            return call()
        except Exception as error:
            pause = _pause(error, number)
            if pause is None or number == ATTEMPTS:
                raise InputError(f"{what}: {reason(error)}") from error
            log.warning("%s: %s; trying again in %.1f s", what, reason(error), pause)
            time.sleep(pause)
    raise AssertionError("the loop returns or raises")


def _pause(error: Exception, number: int) -> float | None:
    """Seconds to wait after try ``number``; None if another try cannot help or would come too late."""
    pause: float = FIRST_PAUSE * 2 ** (number - 1)
    if refusal := _cause(error, errors.HfHubHTTPError):
        pause = max(pause, _retry_after(refusal.response))
        return pause if refusal.response.status_code in TRANSIENT and pause <= LONGEST_PAUSE else None
    return pause if _cause(error, httpx2.TransportError) else None


def reason(error: Exception) -> str:
    """Why a call failed, in one line."""
    if refusal := _cause(error, errors.HfHubHTTPError):
        status, wait = refusal.response.status_code, _retry_after(refusal.response)
        hint = HINTS.get(type(refusal), HINTS.get(status, ""))
        words = " ".join((refusal.server_message or "without a reason").split())
        return f"{hint}the Hub answered {status}: {words}" + (
            f"; it asks to wait {wait:.0f} s" if wait else ""
        )
    if failure := _cause(error, httpx2.TransportError):
        address = constants.ENDPOINT or "HF_ENDPOINT="
        return f"the Hub at {address} cannot be reached ({type(failure).__name__}: {failure})"
    if isinstance(error, NOT_THE_HUB):
        return f"what answers at {constants.ENDPOINT} is not the Hub (a proxy or a login page in between?)"
    return f"{type(error).__name__}: {error}"


def _cause(error: BaseException | None, kind: type[E]) -> E | None:
    """The first of this kind among an error and what caused it."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def _retry_after(response: httpx2.Response) -> float:
    """Seconds that a server asks to wait, by the Hub's rate limit header or Retry-After; 0 if it does not."""
    limit = parse_ratelimit_headers(response.headers)
    if limit and not limit.remaining:
        return float(limit.reset_in_seconds)
    return urllib3.Retry().parse_retry_after(response.headers.get("Retry-After", "0"))


def differences(api: HfApi, repo: str, revision: str, folder: Path, ignored: Container[str]) -> list[str]:
    """Names of the files by which a repository and a folder differ, without the ``ignored``.

    Args:
        api: the client.
        repo: ``user/name``.
        revision: branch, tag or commit.
        folder: should hold the same files with the same content.
        ignored: names.
    """
    seen = api.verify_repo_checksums(repo, revision=revision, local_dir=folder)
    names = [*(file["path"] for file in seen.mismatches), *seen.extra_paths, *seen.missing_paths]
    return [name for name in names if name not in ignored]

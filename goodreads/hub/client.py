"""The Hugging Face Hub as this pipeline uses it: bounded retries, one-line errors, comparison by hash.

Errors name the call, the status and the Hub's own reason, never the request, whose headers hold the token.
"""

import math
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
from goodreads.common.errors import Ended, InputError
from goodreads.common.progress import log

PAUSES = (0.5, 1.0, 2.0, math.inf)  # seconds between the tries of a call; none follows the last
LONGEST_PAUSE = 120.0  # seconds; a Hub that asks for more is not asked again
TIMEOUT = 60.0  # seconds without an answer; the client's own default is no limit
HINTS: dict[object, str] = {  # what a refusal means, by its class or status
    errors.RepositoryNotFoundError: "no such repository, or a private one that this token cannot see; ",
    errors.RevisionNotFoundError: "no such revision; ",
    401: "the Hub refuses the token (401); set HF_TOKEN or HF_TOKEN_PATH, or log in with hf auth login; ",
    **dict.fromkeys((409, 412), "it was changed by somebody else during the push; look, then run again; "),
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
        get_session()
    except Exception as error:  # of many classes, by the setting that is wrong
        raise InputError(f"HF_TOKEN_PATH, HTTP(S)_PROXY, ALL_PROXY or SSL_CERT_FILE: {error}") from error
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise InputError("the token holds characters that no token has; copy it again into HF_TOKEN")
    return HfApi(token=token or False)


def attempt(what: str, call: Callable[[HfApi], T]) -> T:
    """What ``call`` makes of the client; repeated as a whole after a temporary failure.

    Raises:
        InputError: it failed for good; the message names ``what``.
    """
    api = connect()
    for pause in PAUSES:
        try:
            get_session().timeout = TIMEOUT  # each time: the library replaces a session that failed
            return call(api)
        except Ended:
            raise
        except Exception as error:
            reason, wait = _judge(error)
            if (wait := max(wait, pause)) > LONGEST_PAUSE:
                raise InputError(f"{what}: {reason}") from error
            log.warning("%s: %s; trying again in %.1f s", what, reason, wait)
            time.sleep(wait)
    raise AssertionError("the loop returns or raises")


def _judge(error: Exception) -> tuple[str, float]:
    """Why a call failed, in one line; and the least seconds until another try, endless if none can help."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, errors.HfHubHTTPError):
            return _judge_refusal(cause)
        if isinstance(cause, httpx2.TransportError):
            address = constants.ENDPOINT or "HF_ENDPOINT="
            return f"the Hub at {address} cannot be reached ({type(cause).__name__}: {cause})", 0.0
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, JSONDecodeError | KeyError | TypeError | AttributeError):  # of a web page
        reason = f"what answers at {constants.ENDPOINT} is not the Hub (a proxy or a login page in between?)"
        return reason, math.inf
    return f"{type(error).__name__}: {error}", math.inf


def _judge_refusal(refusal: errors.HfHubHTTPError) -> tuple[str, float]:
    """The same for an error that the Hub has answered with, which may ask to wait, in one of two headers."""
    status, headers = refusal.response.status_code, refusal.response.headers
    wait = urllib3.Retry().parse_retry_after(headers.get("Retry-After", "0"))
    if (limit := parse_ratelimit_headers(headers)) and not limit.remaining:
        wait = float(limit.reset_in_seconds)
    hint = HINTS.get(type(refusal), HINTS.get(status, ""))
    words = " ".join((refusal.server_message or "without a reason").split())
    asks = f"; it asks to wait {wait:.0f} s" if wait else ""
    passing = status >= 500 or status in (408, 429)
    return f"{hint}the Hub answered {status}: {words}{asks}", wait if passing else math.inf


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

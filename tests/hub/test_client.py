"""Calls to the Hub that fail: repeated if that can help, else one line with the Hub's own reason."""

import re
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from goodreads.common import cli
from goodreads.common.errors import InputError
from goodreads.hub.client import PAUSES, attempt
from tests.hub.conftest import Settings
from tools.loopback_hub import Fault, LoopbackHub, Repo

INFO = "/api/models/ada/genres$"


def ask() -> None:
    attempt("ada/genres", lambda api: api.model_info("ada/genres"))


REFUSALS = [
    (403, "", "Private repository storage limit reached", ""),
    (404, "RepoNotFound", "Repository not found", "no such repository, or a private one"),
    (404, "RevisionNotFound", "Invalid rev id: v9", "no such revision"),
    (401, "", "Invalid credentials", "the Hub refuses the token (401); set HF_TOKEN or HF_TOKEN_PATH"),
    (500, "", "Internal error 42", ""),
]


@pytest.mark.parametrize(("status", "code", "message", "expected"), REFUSALS)
def test_a_refusal_is_reported_with_the_reason_of_the_hub(
    hub: LoopbackHub, status: int, code: str, message: str, expected: str
) -> None:
    hub.faults.append(Fault("status", path=INFO, status=status, code=code, message=message, times=None))
    said = f"^ada/genres: {re.escape(expected)}.*the Hub answered {status}: {message}"
    with pytest.raises(InputError, match=said):
        ask()
    asked = [re.search(INFO, request.path) for request in hub.requests]  # the library asks for more, once
    assert len(list(filter(None, asked))) == (len(PAUSES) if status == 500 else 1)


@pytest.mark.parametrize(
    ("status", "header", "value"),
    [(503, "Retry-After", "7"), (429, "Retry-After", "date"), (429, "RateLimit", '"api";r=0;t=7')],
)
def test_a_hub_that_asks_to_wait_is_given_the_time(
    hub: LoopbackHub, repo: Repo, pauses: list[float], status: int, header: str, value: str
) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=7), usegmt=True)
    headers = {header: date if value == "date" else value}
    hub.faults.append(Fault("status", path=INFO, status=status, headers=headers))
    ask()
    assert pauses == [pytest.approx(7, abs=4)]
    hub.faults.append(Fault("status", path=INFO, status=status, headers={"Retry-After": "3600"}))
    with pytest.raises(InputError, match="asks to wait 3600 s"):
        ask()


WRONG_SETTINGS = [
    ({"ALL_PROXY": "gopher://proxy:1"}, "ALL_PROXY or SSL_CERT_FILE: .*gopher"),
    ({"HTTPS_PROXY": "http://proxy:port"}, "_PROXY, ALL_PROXY or SSL_CERT_FILE: .*port"),
    ({"SSL_CERT_FILE": "/none.pem"}, "SSL_CERT_FILE: "),
    ({"HF_TOKEN": "", "HF_TOKEN_PATH": "/"}, "HF_TOKEN_PATH.*: '/'"),
    ({"HF_TOKEN": "hf_SECRÉT"}, "the token holds characters that no token has"),
    ({"HF_ENDPOINT": ""}, "the Hub at HF_ENDPOINT= cannot"),
    ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the Hub at http://127.0.0.1:9 cannot be reached"),
    ({"HF_HUB_OFFLINE": "1"}, "unset the `HF_HUB_OFFLINE`"),
    ({}, "what answers at .* is not the Hub"),
]


@pytest.mark.parametrize(("values", "expected"), WRONG_SETTINGS, ids=str)
def test_a_wrong_setting_is_one_line_without_the_token(
    hub: LoopbackHub, repo: Repo, settings: Settings, values: dict[str, str], expected: str
) -> None:
    if not values:  # a login page in between
        hub.faults.append(Fault("html", path=INFO))
    settings(**{"HF_ENDPOINT": hub.url} | values)
    with pytest.raises(InputError, match=expected) as raised:
        ask()
    assert "hf_SEC" not in cli.redacted(str(raised.value))

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import environment, read_environment
from tools.loopback_hub import LoopbackHub, Repo, Token

Settings = Callable[..., None]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """Lets huggingface_hub read these environment variables, as if it had just been imported."""

    def read(**values: str) -> None:
        for name, value in (environment(tmp_path) | {"HF_TOKEN": "hf_SECRET"} | values).items():
            monkeypatch.setenv(name, value)
        read_environment()

    yield read
    monkeypatch.undo()
    read()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of the pauses, which are skipped; the library's are among them."""
    seconds: list[float] = []
    monkeypatch.setattr(time, "sleep", seconds.append)
    return seconds


@pytest.fixture
def hub(tmp_path: Path, settings: Settings, pauses: list[float]) -> Iterator[LoopbackHub]:
    with LoopbackHub({"hf_SECRET": Token("ada")}) as hub:
        settings(HF_ENDPOINT=hub.url)
        yield hub


@pytest.fixture
def repo(hub: LoopbackHub) -> Repo:
    return hub.create("ada/genres")

"""Both images, built once from this checkout, and what they are run against on this machine.

CONTAINER=docker|podman chooses the engine, IMAGE_BUILD_ARGS and IMAGE_RUN_ARGS add to its command lines.
"""

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import ROOT, Result, run_script, succeeded
from tools.loopback_hub import LoopbackHub, Token

TOKEN, REPO = "hf_writeSECRET", "ada/genres"
USER, GROUP = os.getuid() or 10001, os.getgid() or 10001  # root gives the folders to the images' own user
HARDENED = (
    f"--rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges --user {USER}:{GROUP}"
).split()


class Engine:
    """Docker or podman, on the command line."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __call__(self, *arguments: object) -> Result:
        command = [self.command, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=900)

    def build(self, context: Path, image: str, file: str, *arguments: str) -> Result:
        own = shlex.split(os.environ.get("IMAGE_BUILD_ARGS", ""))
        started = time.monotonic()
        result = self("build", *own, "-t", image, "-f", context / file, *arguments, context)
        print(f"built {image} in {time.monotonic() - started:.0f} s", file=sys.stderr)
        return result

    def run_command(self, image: str, *arguments: object, **options: Any) -> list[str]:
        """A hardened run: ``before`` goes before the image's name, ``network`` is none unless given."""
        own = shlex.split(os.environ.get("IMAGE_RUN_ARGS", ""))
        network = ["--network", options.get("network", "none")]
        before = [*own, *HARDENED, *network, *options.get("before", ())]
        return [self.command, "run", *map(str, [*before, image, *arguments])]

    def run(self, image: str, *arguments: object, **options: Any) -> Result:
        return self(*self.run_command(image, *arguments, **options)[1:])


def give(path: Path) -> None:
    """Make the containers' user its owner."""
    if os.getuid() == 0:
        os.chown(path, USER, GROUP)


class World:
    """A host that trained, evaluated and published: the folder with data/, model/, results/; the Hub."""

    def __init__(self, folder: Path, hub: LoopbackHub) -> None:
        self.folder, self.hub = folder, hub
        self.data = ["-v", f"{folder / 'data'}:/app/data:ro"]

    def results(self, folder: Path) -> tuple[Path, list[str]]:
        """A results folder with the host's own local result, and the option that mounts it."""
        copy = shutil.copytree(self.folder / "results", folder / "results")
        for path in (copy, *copy.iterdir()):
            give(path)
        return copy, ["-v", f"{copy}:/app/results"]

    def settings(self, **extra: str) -> list[str]:
        """Options of a run that give the container its Hub."""
        env = {"HF_ENDPOINT": self.hub.url, "HF_TOKEN": TOKEN, "HF_REPO": REPO, "HF_HUB_DISABLE_XET": "1"}
        env |= {"NO_PROXY": "127.0.0.1"} | extra
        return [part for name, value in env.items() if value for part in ("-e", f"{name}={value}")]


@pytest.fixture(scope="session")
def engine() -> Engine:
    asked = os.environ.get("CONTAINER")
    for name in [asked] if asked else ["docker", "podman"]:
        if shutil.which(name) and Engine(name)("info").returncode == 0:  # docker's daemon may be down
            return Engine(name)
    pytest.fail(f"{asked or 'neither docker nor podman'} answers here; start one, or name it: CONTAINER=")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, trained: Path, small_data: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("world")
    shutil.copytree(trained, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("hf", "mpl"))
    shutil.copytree(small_data, folder / "data")
    with LoopbackHub(folder / "hub", {TOKEN: Token("ada")}) as hub:
        env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        succeeded(run_script("plot_results.py", cwd=folder))
        succeeded(run_script("push_to_hub.py", "--repo", REPO, cwd=folder, env=env))
        yield World(folder, hub)


@pytest.fixture(scope="session")
def context(tmp_path_factory: pytest.TempPathFactory, world: World) -> Path:
    """A checkout as a user has it after training, with secrets lying about."""
    folder = tmp_path_factory.mktemp("context")
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    for name in ("model", "data"):
        shutil.copytree(world.folder / name, folder / name)
    (folder / "model" / "config.json").chmod(0o666)
    for name in (".env", "token", "model/.token", "data/token.txt", "goodreads/.netrc"):
        (folder / name).write_text(TOKEN)
    return folder


@pytest.fixture(scope="session")
def images(engine: Engine, context: Path) -> dict[str, str]:
    """The images' names by what they evaluate: local or hub."""
    names = {"local": "localhost/goodreads-test-local", "hub": "localhost/goodreads-test-hub"}
    for kind, file in (("local", "Dockerfile"), ("hub", "Dockerfile.eval")):
        built = engine.build(context, names[kind], file)
        assert built.returncode == 0, built.stdout[-1500:] + built.stderr[-3000:]
    return names

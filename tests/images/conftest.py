"""Both images, built once from this checkout, and what they are run against on this machine.

CONTAINER=docker|podman chooses the engine, IMAGE_BUILD_ARGS and IMAGE_RUN_ARGS add to its command lines.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.helpers import ROOT, Result, run_script, succeeded
from tools.loopback_hub import LoopbackHub, Token

TOKEN, REPO = "hf_writeSECRET", "ada/genres"
USER, GROUP = os.getuid() or 10001, os.getgid() or 10001  # root gives the folders to the images' own user
HARDENED = "--rm --read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges"
LOCAL, HUB = "localhost/goodreads-test-local", "localhost/goodreads-test-hub"


def give(path: Path) -> None:
    """Make the containers' user its owner."""
    if os.getuid() == 0:
        os.chown(path, USER, GROUP)


class World:
    """A host that trained, evaluated and published, its Hub, and a container engine.

    ``folder`` has data/, model/ and results/; ``context`` is a checkout with those and with secrets in it.
    """

    def __init__(self, engine: str, folder: Path, context: Path, hub: LoopbackHub) -> None:
        self.engine, self.folder, self.context, self.hub = engine, folder, context, hub
        self.data = ["-v", f"{folder / 'data'}:/app/data:ro"]

    def __call__(self, *arguments: object) -> Result:
        """Run the engine with these arguments."""
        command = [self.engine, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=900)

    def build(self, image: str, file: str, *arguments: str, context: Path | None = None) -> Result:
        own = shlex.split(os.environ.get("IMAGE_BUILD_ARGS", ""))
        context = context or self.context
        return self("build", *own, "-t", image, "-f", context / file, *arguments, context)

    def command(self, image: str, before: Sequence[str], *arguments: object) -> list[str]:
        """The engine's arguments for a hardened run with the options ``before`` before the image's name."""
        own = shlex.split(f"{HARDENED} --user {USER}:{GROUP} {os.environ.get('IMAGE_RUN_ARGS', '')}")
        own += ["-e", f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}"]  # batches depend on it
        network = "host" if image == HUB else "none"  # the Hub's may reach this machine's Hub
        return ["run", *own, "--network", network, *before, image, *map(str, arguments)]

    def run(self, image: str, before: Sequence[str], *arguments: object) -> Result:
        """Run an image. No token may be printed."""
        result = self(*self.command(image, before, *arguments))
        assert "SECRET" not in result.stdout + result.stderr
        return result

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
def engine() -> str:
    asked = os.environ.get("CONTAINER")
    for name in [asked] if asked else ["docker", "podman"]:
        if shutil.which(name) and subprocess.run([name, "info"], capture_output=True).returncode == 0:
            return name  # docker is installed and its daemon running, or it is podman
    pytest.fail(f"{asked or 'neither docker nor podman'} answers here; start one, or name it: CONTAINER=")


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, engine: str, trained: Path, small_data: Path
) -> Iterator[World]:
    folder, context = tmp_path_factory.mktemp("world"), tmp_path_factory.mktemp("context")
    shutil.copytree(trained, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("hf", "mpl"))
    shutil.copytree(small_data, folder / "data")
    copy = 'git ls-files -zco --exclude-standard | tar -c --null -T - | tar -x -C "$0"'
    subprocess.run(["bash", "-c", copy, context], cwd=ROOT, check=True)
    for name in ("model", "data"):
        shutil.copytree(folder / name, context / name)
    (context / "model" / "config.json").chmod(0o666)
    for name in (".env", "token", "model/.token", "data/token.txt", "goodreads/.netrc"):
        (context / name).write_text(TOKEN)
    with LoopbackHub({TOKEN: Token("ada")}) as hub:
        succeeded(run_script("plot_results.py", cwd=folder))
        env = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
        succeeded(run_script("push_to_hub.py", "--repo", REPO, cwd=folder, env=env))
        world = World(engine, folder, context, hub)
        for image, file in ((LOCAL, "Dockerfile"), (HUB, "Dockerfile.eval")):
            succeeded(world.build(image, file))
        yield world

"""The images as a stranger runs them: hardened, with good and bad settings, and looked into."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq
import pytest

from tests.helpers import ROOT, assert_one_line_error, environment
from tests.images.conftest import TOKEN, USER, Engine, World, give
from tests.scripts.test_container import BIG

BASE = "python:3.11-slim-bookworm"
SIZE = 1.25e9  # bytes above the base image, without the model and the split
LOOK = """
import glob, json, os, pathlib, py_compile, shutil, stat, importlib.util
TMP = pathlib.Path("/tmp")
files = [p for top in ("/app", "/opt", "/build", "/context", "/tmp", "/root", "/home") if os.path.isdir(top)
         and os.access(top, os.R_OK) for p in pathlib.Path(top).rglob("*") if not p.is_symlink()]
print(json.dumps({
    "tools": [t for t in ("gcc", "cc", "g++", "make", "git", "nvcc") if shutil.which(t)],
    "pip": importlib.util.find_spec("pip") is not None,
    "open": [str(p) for p in files if p.stat().st_uid == 0 and p.stat().st_mode & stat.S_IWOTH and p != TMP],
    "caches": [str(p) for p in files if p.name in (".cache", "pip") and p.is_dir() and any(p.iterdir())],
    "compiled": os.path.isfile(importlib.util.cache_from_source(importlib.util.find_spec("torch").origin)),
    "app": sorted(str(p.relative_to("/app")) for p in files if p.is_relative_to("/app") and p.is_file()),
    "baked": sum(p.stat().st_size for d in ("model", "data") for p in pathlib.Path("/app", d).rglob("*")),
}))
"""


def predictions(folder: Path, name: str) -> Any:
    return pq.read_table(folder / f"predictions_{name}.parquet")


def closing(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return document


def succeeded(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert result.returncode == 0, result.stderr[-3000:]
    assert "SECRET" not in result.stdout + result.stderr
    return result


def test_the_local_image_scores_as_the_host_does_without_a_network(
    engine: Engine, images: dict[str, str], world: World, tmp_path: Path
) -> None:
    results = world.results(tmp_path)
    for path in results.glob("*_local.*"):
        path.unlink()
    result = succeeded(engine.run(images["local"], before=["-v", f"{results}:/app/results"]))
    assert predictions(results, "local").equals(predictions(world.folder / "results", "local"))
    name = "eval_results_local.json"
    mine, host = (json.loads((f / name).read_text()) for f in (results, world.folder / "results"))
    assert mine["metrics"] == host["metrics"]
    assert closing(result)["accuracy"] == round(host["metrics"]["accuracy"]["value"], 4)
    assert "Mystery/Thriller/Crime" in result.stdout
    assert "device: cpu" in result.stderr
    assert {path.stat().st_uid for path in results.glob("*_local.*")} == {USER}
    assert not list(results.glob(".*.tmp"))


def test_the_hub_image_proves_the_copy_then_takes_it_from_the_cache_by_hash(
    engine: Engine, images: dict[str, str], world: World, tmp_path: Path
) -> None:
    results, cache = world.results(tmp_path), tmp_path / "cache"
    cache.mkdir()
    give(cache)
    mounts = ["-v", f"{results}:/app/results", "-v", f"{cache}:/app/.cache"]
    data = ["-v", f"{world.folder / 'data'}:/app/data:ro"]
    requests = len(world.source.requests)
    before = [*mounts, *data, *world.settings()]
    result = succeeded(engine.run(images["hub"], network="host", before=before))
    assert closing(result)["verdict"] == "IDENTICAL"
    assert predictions(results, "hub").equals(predictions(world.folder / "results", "local"))
    assert len(world.source.requests) == requests

    # again: from the cache but for one file that was changed, the split from its source, the token as a file
    (weights,) = cache.glob("models--*/snapshots/*/model.safetensors")
    (config,) = cache.glob("models--*/snapshots/*/config.json")
    config.resolve().write_text(config.read_text().replace("romance", "Romance"))
    (tmp_path / "token").write_text(TOKEN)
    secret = ["-v", f"{tmp_path / 'token'}:/run/secrets/hf_token:ro"]
    commit = weights.parent.name
    settings = world.settings(HF_TOKEN="", HF_TOKEN_PATH="/run/secrets/hf_token", HF_REVISION=commit)
    world.hub.requests.clear()
    result = succeeded(engine.run(images["hub"], network="host", before=[*mounts, *secret, *settings]))
    assert closing(result)["verdict"] == "IDENTICAL"
    gets = {Path(r.path).name for r in world.hub.requests if r.method == "GET" and "/resolve/" in r.path}
    assert gets == {"config.json"}
    assert len(world.source.requests) > requests
    document = json.loads((results / "eval_results_hub.json").read_text())
    assert document["model"]["commit"] == commit


@pytest.mark.parametrize(
    ("settings", "fragment"),
    [
        ({"HF_REPO": ""}, "HF_REPO is not set"),
        ({"HF_TOKEN": "hf_badSECRET"}, "the Hub refuses the token (401)"),
        ({"HF_TOKEN": ""}, "no such repository, or a private one"),
        ({"HF_REVISION": "v9"}, "no such revision"),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "the Hub at http://127.0.0.1:9 cannot be reached"),
    ],
    ids=lambda value: "=".join(*value.items()) if isinstance(value, dict) else "",
)
def test_wrong_settings_are_one_line_and_status_2(
    engine: Engine,
    images: dict[str, str],
    world: World,
    tmp_path: Path,
    settings: dict[str, str],
    fragment: str,
) -> None:
    before = ["-v", f"{world.results(tmp_path)}:/app/results", *world.settings(**settings)]
    result = engine.run(images["hub"], network="host", before=before)
    assert "SECRET" not in result.stdout + result.stderr
    assert_one_line_error(result, fragment)


def test_a_data_source_that_is_down_is_one_line(
    engine: Engine, images: dict[str, str], world: World, tmp_path: Path
) -> None:
    world.source.answers = {path.name: _gone() for path in world.source.folder.iterdir()}
    try:
        before = ["-v", f"{world.results(tmp_path)}:/app/results", *world.settings()]
        result = engine.run(images["hub"], network="host", before=before)
    finally:
        world.source.answers = {}
    assert_one_line_error(result, "goodreads_reviews_", "HTTP 410")


def _gone() -> Any:
    from tests.loopback import Answer

    return Answer(410, b"gone", "text/plain")


def test_other_weights_end_with_status_1(
    engine: Engine, images: dict[str, str], world: World, tmp_path: Path
) -> None:
    results = world.results(tmp_path)
    path = results / "eval_results_local.json"
    document = json.loads(path.read_text())
    document["model"]["weights_sha256"] = "0" * 64  # stands for another model's result
    path.write_text(json.dumps(document))
    before = ["-v", f"{results}:/app/results", "-v", f"{world.folder / 'data'}:/app/data:ro"]
    result = engine.run(images["hub"], network="host", before=[*before, *world.settings()])
    assert result.returncode == 1
    assert closing(result)["verdict"] == "DIFFERENT"
    assert "local and hub are DIFFERENT: the weights are not the same" in result.stderr


def test_a_results_folder_of_somebody_else_or_none_says_how_to_mount_it(
    engine: Engine, images: dict[str, str], world: World, tmp_path: Path
) -> None:
    results = world.results(tmp_path)
    results.chmod(0o555)
    if os.getuid() == 0:
        os.chown(results, 0, 0)
    for before in (["-v", f"{results}:/app/results"], []):
        result = engine.run(images["local"], before=before)
        assert_one_line_error(
            result, "cannot write results", f"user {USER}", '-v "$(pwd)/results:/app/results"'
        )


@pytest.fixture(scope="module")
def large(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of DistilBERT's size, a batch of which takes long."""
    folder = tmp_path_factory.mktemp("large")
    make = [sys.executable, "-c", BIG, world.folder / "model", world.folder / "data"]
    subprocess.run(make, cwd=folder, env=environment(folder, PYTHONPATH=str(ROOT)), check=True)
    return folder / "model"


@pytest.mark.parametrize("after", ["evaluating model", "scoring "], ids=["imports", "a batch"])
def test_sigterm_stops_pid_1_within_two_seconds(
    engine: Engine, images: dict[str, str], world: World, large: Path, tmp_path: Path, after: str
) -> None:
    results, name = world.results(tmp_path), f"goodreads-test-{tmp_path.name}"
    before = {path: path.read_bytes() for path in results.iterdir()}
    mounts = ["-v", f"{results}:/app/results", "-v", f"{large}:/app/model:ro"]
    command = engine.run_command(images["local"], before=["--name", name, *mounts])
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        line = process.stderr.readline()
        assert time.monotonic() - started < 5, "the first log line came late"
        while after not in line:
            assert line, "it ended before"
            line = process.stderr.readline()
        time.sleep(0.5)
        sent = time.monotonic()
        assert engine("kill", "--signal", "TERM", name).returncode == 0
        rest = process.stderr.read()
        stopped = time.monotonic() - sent
        assert process.wait() == 128 + signal.SIGTERM
    assert stopped < 2
    assert rest.rstrip().splitlines()[-1] == "evaluate_model.py: error: stopped by SIGTERM"
    assert {path: path.read_bytes() for path in results.iterdir()} == before


def test_what_is_in_the_images_and_what_is_not(engine: Engine, images: dict[str, str]) -> None:
    if engine("image", "inspect", BASE).returncode:
        assert engine("pull", BASE).returncode == 0
    base = engine("image", "inspect", "--format", "{{.Size}}", BASE)
    for kind, image in images.items():
        look = engine.run(image, "-c", LOOK, before=["--entrypoint", "python"])
        found = closing(succeeded(look))
        assert found["tools"] == found["open"] == found["caches"] == []
        assert not found["pip"]
        assert found["compiled"]
        files = set(found["app"])
        assert ("evaluate_model.py" in files) is True
        assert {
            "model/model.safetensors",
            "data/test.parquet",
            "data/manifest.json",
        } <= files or kind == "hub"
        wanted = re.compile(
            r"(data_loader|evaluate_model|plot_results)\.py|goodreads/\w+\.(py|md)|(model|data)/.*"
        )
        assert [name for name in files if not wanted.fullmatch(name)] == []
        assert "data/train.parquet" not in files
        size = int(engine("inspect", "--format", "{{.Size}}", image).stdout)
        above = size - int(base.stdout) - found["baked"]
        print(f"{image}: {above / 1e6:.0f} MB above the base image without model and split", file=sys.stderr)
        assert above <= SIZE
        document = json.loads(engine("inspect", image).stdout)[0]
        labels = document["Config"]["Labels"]
        for name in ("title", "description", "licenses"):
            assert labels[f"org.opencontainers.image.{name}"]
        assert document["Config"]["User"] == "10001:10001"
        assert not document["Config"].get("Healthcheck")


def test_no_token_is_in_history_configuration_or_layers(engine: Engine, images: dict[str, str]) -> None:
    for image in images.values():
        for command in (("history", "--no-trunc", image), ("inspect", image)):
            result = engine(*command)
            assert result.returncode == 0
            assert TOKEN not in result.stdout
    several = ["--multi-image-archive"] if engine.command == "podman" else []  # shared layers come once
    command = [engine.command, "save", *several, *images.values()]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        scanned, found = 0, []
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                if member.isfile() and (file := archive.extractfile(member)):
                    size, there = _scan(file)
                    scanned += size
                    found += [member.name] * there
    assert scanned > 1e9, "the layers were not read"
    assert found == []


def _scan(file: IO[bytes]) -> tuple[int, bool]:
    """Bytes read, unpacked where need be, and whether a token's text is among them."""
    start = file.read(2)
    stream = gzip.GzipFile(fileobj=_Rejoined(start, file)) if start == b"\x1f\x8b" else _Rejoined(start, file)
    size, rest, there = 0, b"", False
    while chunk := stream.read(1 << 20):
        there |= TOKEN.encode() in rest + chunk
        size, rest = size + len(chunk), chunk[-len(TOKEN) :]
    return size, there


class _Rejoined:
    """What was read of a file that cannot seek, put back."""

    def __init__(self, start: bytes, file: IO[bytes]) -> None:
        self.start, self.file = start, file

    def read(self, size: int = -1) -> bytes:
        start, self.start = self.start, b""
        return start + self.file.read(size - len(start) if size >= 0 else -1)


def test_a_missing_model_fails_the_build_with_what_to_do(
    engine: Engine, images: dict[str, str], context: Path, tmp_path: Path
) -> None:
    shutil.copytree(context, tmp_path / "context", ignore=shutil.ignore_patterns("model"))
    result = engine.build(
        tmp_path / "context", "localhost/goodreads-test-none", "-f", tmp_path / "context/Dockerfile"
    )
    assert result.returncode != 0
    assert (
        "model/ holds no trained model: train first, with: python train.py" in result.stdout + result.stderr
    )


def test_a_change_of_code_alone_builds_on_the_same_dependency_layers(
    engine: Engine, images: dict[str, str], context: Path
) -> None:
    def layers(image: str) -> list[str]:
        found: list[str] = json.loads(engine("inspect", image).stdout)[0]["RootFS"]["Layers"]
        return found

    before = layers(images["hub"])
    assert before[:3] == layers(images["local"])[:3]
    with (context / "goodreads" / "labels.py").open("a") as file:
        file.write("# changed\n")
    started = time.monotonic()
    result = engine.build(context, "localhost/goodreads-test-changed", "-f", context / "Dockerfile.eval")
    assert result.returncode == 0, result.stderr[-3000:]
    print(f"rebuilt after a change of code in {time.monotonic() - started:.0f} s", file=sys.stderr)
    after = layers("localhost/goodreads-test-changed")
    assert after != before
    same = next(i for i, (a, b) in enumerate(zip(before, after)) if a != b)
    sizes = engine("history", "--format", "{{.Size}}", images["hub"])
    assert same >= 2, sizes.stdout  # the base image and the virtual environment at least


def test_the_train_target_trains_and_misses_the_gpu_loudly(
    engine: Engine, images: dict[str, str], context: Path, world: World, tmp_path: Path
) -> None:
    image = "localhost/goodreads-test-train"
    built = engine.build(context, image, "-f", context / "Dockerfile", "--target", "train")
    assert built.returncode == 0, built.stderr[-3000:]
    results = world.results(tmp_path)
    data = f"{world.folder / 'data'}:/app/data:ro"
    before = ["-v", f"{results}:/app/results", "-v", data, "-e", "NVIDIA_VISIBLE_DEVICES=all"]
    settings = ("--recipe", "sample", "--max_steps", 2, "--max_length", 64)
    result = succeeded(engine.run(image, *settings, before=before))
    assert "NO GPU: training runs on the CPU." in result.stderr
    assert "One was asked for: NVIDIA_VISIBLE_DEVICES=all." in result.stderr
    assert (results / "model" / "model.safetensors").stat().st_uid == USER
    assert closing(result)["steps"] == 2
    assert_one_line_error(engine.run(image, "--require-gpu", before=before), "--require-gpu", "--gpus all")

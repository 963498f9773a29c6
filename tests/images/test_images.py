"""The images as a stranger runs them: hardened, with good and bad settings, and looked into."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.helpers import ROOT, Result, assert_one_line_error, succeeded, temporary_files
from tests.images.conftest import HUB, LOCAL, TOKEN, USER, World, give

BASE = "python:3.11-slim-bookworm"
SIZE = 1.25e9  # bytes above the base image, without the model and the split
LOOK = """
import json, os, pathlib, shutil, stat, importlib.util
TMP = pathlib.Path("/tmp")
files = [p for top in ("/app", "/opt", "/build", "/context", "/tmp", "/root", "/home") if os.path.isdir(top)
         and os.access(top, os.R_OK) for p in pathlib.Path(top).rglob("*") if not p.is_symlink()]
print(json.dumps({
    "tools": [t for t in ("gcc", "cc", "g++", "make", "git", "nvcc") if shutil.which(t)],
    "open": [str(p) for p in files if p.stat().st_uid == 0 and p.stat().st_mode & stat.S_IWOTH and p != TMP],
    "caches": [str(p) for p in files if p.name in (".cache", "pip") and p.is_dir() and any(p.iterdir())],
    "compiled": os.path.isfile(importlib.util.cache_from_source(importlib.util.find_spec("torch").origin)),
    "app": sorted(str(p.relative_to("/app")) for p in files if p.is_relative_to("/app") and p.is_file()),
    "baked": sum(p.stat().st_size for d in ("model", "data") for p in pathlib.Path("/app", d).rglob("*")),
}))
"""


def predictions(folder: Path, name: str) -> Any:
    return pq.read_table(folder / f"predictions_{name}.parquet")


def closing(result: Result) -> dict[str, Any]:
    return dict(json.loads(result.stdout.splitlines()[-1]))


def test_the_local_image_scores_as_the_host_does_without_a_network(world: World, tmp_path: Path) -> None:
    results, mount = world.results(tmp_path)
    for path in results.glob("*_local.*"):
        path.unlink()
    result = succeeded(world.run(LOCAL, mount))
    assert predictions(results, "local").equals(predictions(world.folder / "results", "local"))
    name = "eval_results_local.json"
    mine, host = (json.loads((f / name).read_text()) for f in (results, world.folder / "results"))
    assert mine["metrics"] == host["metrics"]
    assert "Mystery/Thriller/Crime" in result.stdout
    assert {path.stat().st_uid for path in results.glob("*_local.*")} == {USER}
    assert not temporary_files(results)


def test_the_hub_image_proves_the_copy_with_and_without_split_and_cache(world: World, tmp_path: Path) -> None:
    results, mount = world.results(tmp_path)
    (tmp_path / "cache").mkdir()
    give(tmp_path / "cache")
    mount += ["-v", f"{tmp_path / 'cache'}:/app/.cache"]
    result = succeeded(world.run(HUB, [*mount, *world.data, *world.settings()]))
    assert closing(result)["verdict"] == "IDENTICAL"
    assert predictions(results, "hub").equals(predictions(world.folder / "results", "local"))
    commit = json.loads((results / "eval_results_hub.json").read_text())["model"]["commit"]

    # the model from the cache, the split from its source, the token from a file
    (tmp_path / "token").write_text(TOKEN)
    mount += ["-v", f"{tmp_path / 'token'}:/run/secrets/hf_token:ro"]
    settings = world.settings(HF_TOKEN="", HF_TOKEN_PATH="/run/secrets/hf_token", HF_REVISION=commit)
    world.hub.requests.clear()
    result = succeeded(world.run(HUB, [*mount, *settings]))
    assert closing(result)["verdict"] == "IDENTICAL"
    assert not [r.path for r in world.hub.requests if r.method == "GET" and "safetensors" in r.path]
    assert_one_line_error(world.run(HUB, [*mount, *world.settings(HF_REVISION="v9")]), "no such revision")


def test_a_results_folder_of_another_user_or_none_says_how_to_mount_it(world: World, tmp_path: Path) -> None:
    results, mount = world.results(tmp_path)
    results.chmod(0o555)
    if os.getuid() == 0:
        os.chown(results, 0, 0)
    for before in (mount, []):
        assert_one_line_error(
            world.run(LOCAL, before), "cannot write results", f"user {USER}", "containers.md"
        )


def test_sigterm_stops_pid_1_within_two_seconds(world: World, tmp_path: Path) -> None:
    results, mount = world.results(tmp_path)
    before = {path: path.read_bytes() for path in results.iterdir()}
    name = f"goodreads-test-{tmp_path.name}"
    command = [world.engine, *world.command(LOCAL, [*mount, "--name", name], "--force")]
    started = time.monotonic()
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr and "evaluating model" in process.stderr.readline()
        assert time.monotonic() - started < 5, "the first log line came late"
        time.sleep(1)  # while torch is imported
        sent = time.monotonic()
        succeeded(world("kill", "--signal", "TERM", name))
        assert process.stderr.read().endswith("evaluate_model.py: error: stopped by SIGTERM\n")
        assert time.monotonic() - sent < 2
        assert process.wait() == 128 + signal.SIGTERM
    assert {path: path.read_bytes() for path in results.iterdir() if path in before} == before


def test_what_is_in_the_images_and_what_is_not(world: World) -> None:
    if world("image", "inspect", BASE).returncode:
        succeeded(world("pull", BASE))
    base = int(world("image", "inspect", "--format", "{{.Size}}", BASE).stdout)
    baked = {"model/model.safetensors", "data/test.parquet", "data/manifest.json"}
    files = (path for path in (ROOT / "goodreads").rglob("*.*") if path.suffix != ".pyc")
    package = {path.relative_to(ROOT).as_posix() for path in files}
    for image in (LOCAL, HUB):
        found = closing(succeeded(world.run(image, ["--entrypoint", "python"], "-c", LOOK)))
        assert found["tools"] == found["open"] == found["caches"] == []
        assert found["compiled"]
        assert package <= set(found["app"])
        assert (baked <= set(found["app"])) == (image == LOCAL)
        rest = {name for name in found["app"] if not name.startswith("model/")} - package - baked
        assert rest == {"evaluate_model.py", "predict.py"}
        document = json.loads(world("inspect", image).stdout)[0]
        above = document["Size"] - base - found["baked"]
        assert above <= SIZE, image
        assert document["Config"]["User"] == "10001:10001"


def test_no_token_is_in_history_configuration_or_layers(world: World) -> None:
    for command in (("history", "--no-trunc"), ("inspect",)):
        for image in (LOCAL, HUB):
            assert TOKEN not in succeeded(world(*command, image)).stdout
    several = ["--multi-image-archive"] if world.engine == "podman" else []  # shared layers come once
    command = [world.engine, "save", *several, LOCAL, HUB]
    scanned, found = 0, []
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as archive,
    ):
        for member in archive:
            if member.isfile() and (file := archive.extractfile(member)):
                content = file.read()
                content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
                scanned += len(content)
                found += [member.name] * (TOKEN.encode() in content)
    assert scanned > 1e9, "the layers were not read"
    assert found == []


def test_a_missing_model_fails_the_build_with_what_to_do(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.context, tmp_path / "context")
    shutil.rmtree(tmp_path / "context" / "model")
    result = world.build("localhost/goodreads-test-none", "Dockerfile", context=tmp_path / "context")
    assert result.returncode != 0
    said = "model/ holds no trained model: train first, with: python train.py"
    assert said in result.stdout + result.stderr


def test_the_train_target_trains_and_says_that_there_is_no_gpu(world: World, tmp_path: Path) -> None:
    image = "localhost/goodreads-test-train"
    succeeded(world.build(image, "Dockerfile", "--target", "train"))
    results, mount = world.results(tmp_path)
    before = [*mount, *world.data, "-e", "NVIDIA_VISIBLE_DEVICES=all"]
    result = succeeded(world.run(image, before, *"--recipe sample --max_steps 2 --max_length 64".split()))
    assert "NO GPU: training runs on the CPU." in result.stderr
    assert "NVIDIA_VISIBLE_DEVICES=all" in result.stderr
    assert (results / "model" / "model.safetensors").stat().st_uid == USER
    assert closing(result)["steps"] == 2
    assert_one_line_error(world.run(image, before, "--require-gpu"), "--require-gpu", "--gpus all")


def test_documentation_shows_what_the_images_print(world: World, tmp_path: Path) -> None:
    """``make container-log`` (UPDATE_DOCS=1) writes it."""
    path = ROOT / "docs" / "containers.md"
    before = after = path.read_text(encoding="utf-8")
    _, mount = world.results(tmp_path)
    hub = [*world.data, *world.settings()]
    for name, image, options in (("local", LOCAL, mount), ("hub", HUB, [*mount, *hub])):
        result = succeeded(world.run(image, options))
        start, fence, rest = after.partition(f"<!-- output: {name} -->\n```\n")
        after = start + fence + result.stderr + result.stdout + "```\n" + rest.partition("```\n")[2]
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(after, encoding="utf-8")
    else:
        assert without_figures(after) == without_figures(before), "run: make container-log"


def without_figures(text: str) -> list[str]:
    lines = [re.sub(r"\b[0-9a-f]{8,}\b|[\d.,:]+", "#", line).split() for line in text.splitlines()]
    return [" ".join(words) for words in lines if "this CPU (" not in " ".join(words)]

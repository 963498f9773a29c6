"""Measure the images as docs/containers.md reports them: size, packages, start, memory.

    python docker/figures.py --container podman      # the images of README's "Containers"; some minutes

Prints Markdown. Run it where nothing else is running. Standard library only.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

# run inside an image: MB of each package with its bytecode and bundled libraries, and of what is baked in
PACKAGES = """
import json, pathlib, re, sysconfig
from importlib.metadata import packages_distributions
root, names, sizes = pathlib.Path(sysconfig.get_path("purelib")), packages_distributions(), {}
for path in root.iterdir():
    top = re.sub(r"(\\.libs|-[\\d.+a-z]+\\.dist-info|\\.py|\\.cpython.*)$", "", path.name)
    name = names.get(top, [top])[0].lower().replace("_", "-")
    files = path.rglob("*") if path.is_dir() else [path]
    sizes[name] = sizes.get(name, 0) + sum(p.lstat().st_size for p in files if p.is_file())
baked = {d: sum(p.stat().st_size for p in pathlib.Path("/app", d).rglob("*")) for d in ("model", "data")}
print(json.dumps({"packages": sizes, "baked": baked}))
"""
MEMORY = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, "evaluate_model.py"], stdout=subprocess.PIPE, text=True)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(done.stdout.splitlines()[-1], peak * 1024, sep="\\n")
sys.exit(done.returncode)
"""


def main() -> None:
    """Print every table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--container", default="docker", help="docker or podman (default: docker)")
    parser.add_argument("--base", default="python:3.11-slim-bookworm", help="image they are built on")
    parser.add_argument("--local", default="goodreads-eval-local", help="image of Dockerfile")
    parser.add_argument("--hub", default="goodreads-eval", help="image of Dockerfile.eval")
    options = parser.parse_args()
    engine = options.container
    sizes(engine, options.base, {"Dockerfile": options.local, "Dockerfile.eval": options.hub})
    start(engine, options.local)
    memory(engine, options.local)


def output(*command: str) -> str:
    """Stdout of a command that must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def sizes(engine: str, base: str, images: dict[str, str]) -> None:
    """Print what each image adds to its base, and what the packages take."""
    inspect = (engine, "image", "inspect", "--format", "{{.Size}}")
    below = int(output(*inspect, base))
    print("| image | size | above the base image | without model and split |\n|---|---|---|---|")
    for name, image in images.items():
        found = json.loads(output(engine, "run", "--rm", "--entrypoint", "python", image, "-c", PACKAGES))
        size, baked = int(output(*inspect, image)), sum(found["baked"].values())
        row = " | ".join(f"{n / 1e6:,.0f} MB" for n in (size, size - below, size - below - baked))
        print(f"| {name} | {row} |")
    print("\n| package | MB |\n|---|---|")
    packages = sorted(found["packages"].items(), key=lambda item: -item[1])
    for package, size in packages[:14]:
        print(f"| {package} | {size / 1e6:.0f} |")
    print(f"| {len(packages) - 14} others | {sum(size for _, size in packages[14:]) / 1e6:.0f} |")
    print(f"| together | {sum(size for _, size in packages) / 1e6:,.0f} |")


def start(engine: str, image: str, runs: int = 5) -> None:
    """Print the median seconds from the start of the container to two of its log lines."""
    first: list[float] = []
    device: list[float] = []
    for _ in range(runs):
        command = [engine, "run", "--rm", "--network", "none", "--cpus", "2", image]
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            process.stderr.readline()
            first.append(time.monotonic() - started)
            while "device:" not in process.stderr.readline():
                pass
            device.append(time.monotonic() - started)
            process.terminate()
    print(f"\nStart, median of {runs}: first log line after {sorted(first)[runs // 2]:.1f} s, ", end="")
    print(f"PyTorch imported and the device named after {sorted(device)[runs // 2]:.1f} s.")


def memory(engine: str, image: str) -> None:
    """Print the peak memory of one evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        command = (engine, "run", "--rm", "--network", "none", "-v", f"{folder}:/app/results")
        *_, summary, peak = output(
            *command, "--entrypoint", "python", image, "-c", MEMORY
        ).splitlines()  # fmt: skip
    document = json.loads(summary)
    print(f"\nPeak memory of evaluating {document['reviews']:,} reviews: {int(peak) / 1e9:.2f} GB, ", end="")
    print(f"at {document['reviews_per_second']} reviews/s.")


if __name__ == "__main__":
    main()

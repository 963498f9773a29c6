"""The machine: which device and number format, what is installed, how long training will take.

And what a run says of it when it starts.
"""

import math
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from goodreads.common.errors import InputError
from goodreads.common.progress import log

PACKAGES = ("torch", "transformers", "datasets", "evaluate", "scikit-learn", "huggingface_hub", "accelerate")
CONTAINER_HINT = "in a container, start it with `--gpus all` on a host that has the NVIDIA container toolkit"


@dataclass(frozen=True)
class Device:
    """Where the work runs: ``type`` is cuda, mps or cpu; ``reason`` says why, for the log."""

    type: str
    name: str
    reason: str

    @property
    def is_gpu(self) -> bool:
        """Whether this is an accelerator."""
        return self.type != "cpu"


def cpu_limit(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """CPUs this process may use: those it may run on, or fewer where a cgroup's quota says so.

    A container limited to two CPUs (``docker run --cpus 2``) still sees all of the host's, and torch would
    start a thread for each. Files: cpu.max of version 2, cpu.cfs_quota_us of version 1 of Linux' cgroups
    (docs.kernel.org/admin-guide/cgroup-v2.html), of the own group and those above it.
    """
    allowed = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:  # not Linux
        return max(1, int(allowed))
    for _, controllers, place in lines:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers if controllers else cgroups
        # within a container the path is the host's, and only the root is there
        for folder in (root, *((root / place.lstrip("/")).parents), root / place.lstrip("/")):
            if folder.is_relative_to(root):
                allowed = min(allowed, _quota(folder))
    return max(1, math.ceil(allowed))


def _quota(folder: Path) -> float:
    """CPUs that a cgroup may use, infinity if it sets no limit."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period")
            )
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return math.inf


def limit_threads() -> None:
    """No more threads than CPUs this process may use; OMP_NUM_THREADS can ask for fewer."""
    torch.set_num_threads(min(torch.get_num_threads(), cpu_limit()))


def bfloat16_advice(device_type: str) -> str | None:
    """Which hardware computes in bfloat16 much faster than in float32, or None if nothing here does."""
    if device_type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return "this GPU" if fast else None
    found = torch.cpu.get_capabilities() if device_type == "cpu" else {}
    names = [name for name in ("amx_bf16", "avx512_bf16") if found.get(name)]
    return f"this CPU ({names[0]})" if names else None


def choose_device(require_gpu: bool = False, use_cpu: bool = False) -> Device:
    """The first GPU there is, else the CPU; ``use_cpu`` takes the CPU whatever there is.

    torch is told how many threads it may use: ``limit_threads``.

    Raises:
        InputError: ``require_gpu`` and there is none, or both are asked for.
    """
    limit_threads()
    cpu = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    if use_cpu:
        if require_gpu:
            raise InputError("--require-gpu and --use_cpu contradict each other")
        return Device("cpu", cpu, "--use_cpu")
    if torch.cuda.is_available():
        return Device("cuda", torch.cuda.get_device_name(0), f"{torch.cuda.device_count()} visible to CUDA")
    if torch.backends.mps.is_available():
        return Device("mps", "Apple GPU", "Metal is available")
    if torch.version.cuda is None:
        reason = "this torch is a build without CUDA"
    else:
        reason = f"torch is built for CUDA {torch.version.cuda} but sees no GPU"
    if require_gpu:
        raise InputError(f"--require-gpu: {reason}; {CONTAINER_HINT}")
    return Device("cpu", cpu, reason)


def gpu_asked_for() -> str | None:
    """How this container was told to have a GPU (``--gpus all`` sets NVIDIA_VISIBLE_DEVICES), or None."""
    devices = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")
    return f"NVIDIA_VISIBLE_DEVICES={devices}" if devices not in ("", "void", "none") else None


def choose_precision(device_type: str) -> tuple[str, str]:
    """``bf16``, ``fp16`` or ``float32`` for training on a device of that type, and why."""
    if device_type != "cuda":
        return "float32", "mixed precision is for CUDA GPUs"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", "the GPU computes in bfloat16"
    return "fp16", "the GPU has no bfloat16; the loss is scaled"


def environment() -> dict[str, Any]:
    """Versions, processor and GPU, for the results files."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "packages": {name: version(name) for name in PACKAGES},
    }


def git_commit(folder: Path) -> str | None:
    """The commit checked out in ``folder``, ``-dirty`` after it where files differ; None if it is none."""
    try:
        commit = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return commit.stdout.strip() if commit.returncode == 0 else None


def boxed(lines: list[str]) -> str:
    """The lines in a frame that is hard to overlook."""
    width = max(len(line) for line in lines)
    body = "\n".join(f"║ {line:<{width}} ║" for line in lines)
    return f"╔{'═' * (width + 2)}╗\n{body}\n╚{'═' * (width + 2)}╝"


def training_seconds(parameters: int, tokens: int) -> float:
    """A rough time to train on the CPU, from a matrix product timed on the spot.

    6 floating-point operations per parameter and token (Kaplan et al. 2020, arXiv:2001.08361), at half of the
    measured rate.

    Args:
        parameters: of the model, its embedding tables left out.
        tokens: that training sees, over all epochs.
    """
    a, size, seconds = torch.randn(1024, 1024), 1024, []
    for _ in range(5):
        start = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - start)
    rate = 2 * size**3 / sorted(seconds)[2]
    return 6 * parameters * tokens / (0.5 * rate)


def duration(seconds: float) -> str:
    """``"45 s"``, ``"12 min"`` or ``"3.4 h"``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def announce(device: Device, arguments: Any, plan: Any, trainer: Any) -> None:
    """Say what the run uses and why; without a GPU, say in a box how long that takes."""
    precision = "bf16" if arguments.bf16 else "fp16" if arguments.fp16 else "float32"
    automatic, reason = choose_precision(device.type)
    log.info("device: %s, %s (%s)", device.type, device.name, device.reason)
    log.info("precision: %s (%s)", precision, reason if precision == automatic else "as asked")
    attention = trainer.model.config._attn_implementation
    log.info("attention: %s (what transformers chose for this model and torch build)", attention)
    log.info("%s", plan)
    tokens = sum(trainer.order.lengths)
    padding = trainer.order.padding_share(plan.devices, plan.tokens, plan.per_device)
    log.info("data: %s tokens an epoch, %.1f %% padding", f"{tokens:,}", 100 * padding)
    if device.type == "cuda" and torch.cuda.device_count() > plan.devices:
        log.warning(
            "%d of %d GPUs are idle; use all with: torchrun --nproc-per-node %d train.py",
            torch.cuda.device_count() - plan.devices,
            torch.cuda.device_count(),
            torch.cuda.device_count(),
        )
    if not device.is_gpu:
        parameters = trainer.model.num_parameters(exclude_embeddings=True)
        seconds = training_seconds(parameters, int(tokens * arguments.num_train_epochs))
        box = [
            "NO GPU: training runs on the CPU.",
            *(f"One was asked for: {asked}." for asked in [gpu_asked_for()] if asked),
            f"Why: {device.reason}.",
            f"Estimated training time: {duration(seconds)}.",
            f"If there is one: {CONTAINER_HINT}.",
            "To stop instead of training without one: --require-gpu.",
        ]
        log.warning("\n%s", boxed(box))

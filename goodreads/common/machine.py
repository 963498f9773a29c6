"""The machine: device, threads, number format, and the versions of what is installed."""

import os
import platform
from importlib.metadata import version
from typing import Any, NamedTuple

import joblib
import torch

from goodreads.common.errors import InputError

PACKAGES = ("torch", "transformers", "datasets", "evaluate", "scikit-learn", "huggingface_hub", "accelerate")
CONTAINER_HINT = "in a container, start it with `--gpus all` on a host that has the NVIDIA container toolkit"


class Device(NamedTuple):
    """Where the work runs: ``type`` is cuda, mps or cpu; ``reason`` says why, for the log."""

    type: str
    name: str
    reason: str


def choose_device(require_gpu: bool = False, use_cpu: bool = False) -> Device:
    """The first GPU, else the CPU; the CPU in any case with ``use_cpu``.

    It also limits torch to as many threads as CPUs this process may use, by affinity and cgroup quotas: a
    container with two CPUs (``docker run --cpus 2``) sees all of the host's, and torch would start a thread
    for each. OMP_NUM_THREADS can ask for fewer.

    Raises:
        InputError: ``require_gpu`` and there is none, or both are asked for.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads(), joblib.cpu_count())))
    if torch.cuda.is_available() and not use_cpu:
        return Device("cuda", torch.cuda.get_device_name(0), f"{torch.cuda.device_count()} visible to CUDA")
    if torch.backends.mps.is_available() and not use_cpu:
        return Device("mps", "Apple GPU", "Metal is available")
    built = f"for CUDA {torch.version.cuda} but sees no GPU" if torch.version.cuda else "without CUDA"
    reason = "--use_cpu" if use_cpu else f"this torch is a build {built}"
    if require_gpu:
        raise InputError(f"--require-gpu: {reason}; {CONTAINER_HINT}")
    name = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return Device("cpu", name, reason)


def gpu_asked_for() -> str | None:
    """How this container was told to have a GPU (``--gpus all`` sets NVIDIA_VISIBLE_DEVICES), or None."""
    devices = os.environ.get("NVIDIA_VISIBLE_DEVICES", "")
    return f"NVIDIA_VISIBLE_DEVICES={devices}" if devices not in ("", "void", "none") else None


def choose_precision(device_type: str) -> str:
    """``bf16``, ``fp16`` or ``float32`` for training: mixed precision is for GPUs with CUDA."""
    if device_type != "cuda":
        return "float32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


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


def boxed(lines: list[str]) -> str:
    """The lines in a frame that is hard to miss."""
    width = max(len(line) for line in lines)
    body = "\n".join(f"║ {line:<{width}} ║" for line in lines)
    return f"╔{'═' * (width + 2)}╗\n{body}\n╚{'═' * (width + 2)}╝"

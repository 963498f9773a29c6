"""Device, threads, number format and what the results files say of the machine."""

import json
import re
import subprocess
from pathlib import Path

import joblib
import pytest
import torch

from goodreads.common import machine
from goodreads.common.errors import InputError


@pytest.mark.parametrize(
    ("gpus", "cuda", "options", "expected"),
    [
        (2, "13.0", {}, "cuda, H100 (2 visible to CUDA)"),
        (2, "13.0", {"use_cpu": True}, "cpu, .* threads (--use_cpu)"),
        (0, None, {}, "cpu, .* 2 threads (this torch is a build without CUDA)"),
        (0, "13.0", {"require_gpu": True}, "--require-gpu: .* sees no GPU; in a container, .*--gpus all"),
        (2, "13.0", {"require_gpu": True, "use_cpu": True}, "--require-gpu: --use_cpu"),
    ],
)
def test_the_gpu_or_why_not(
    monkeypatch: pytest.MonkeyPatch, gpus: int, cuda: str | None, options: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H100")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)  # as under docker run --cpus 2
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        device = machine.choose_device(**options)
        said = f"{device.type}, {device.name} ({device.reason})"
    except InputError as error:
        said = str(error)
    torch.set_num_threads(before)
    assert re.search(expected.replace("(", r"\(").replace(")", r"\)"), said)


@pytest.mark.parametrize(
    ("device", "bfloat16", "expected"),
    [("cpu", True, "float32"), ("mps", True, "float32"), ("cuda", True, "bf16"), ("cuda", False, "fp16")],
)
def test_number_format_for_training(
    monkeypatch: pytest.MonkeyPatch, device: str, bfloat16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    assert machine.choose_precision(device)[0] == expected


def test_what_the_results_say_of_the_machine(tmp_path: Path) -> None:
    assert json.loads(json.dumps(machine.environment()))["packages"]["torch"] == torch.__version__
    assert machine.git_commit(tmp_path) is None
    for command in ("init -q", "-c user.name=x -c user.email=x commit -q --allow-empty -m x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    assert len(str(machine.git_commit(tmp_path))) == 40

"""Device, threads, number format and what the results files say of the machine."""

import json
import subprocess
from pathlib import Path

import joblib
import pytest
import torch

from goodreads.common import machine
from goodreads.common.errors import InputError


def test_without_a_gpu_the_cpu_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    device = machine.choose_device()
    assert (device.type, device.is_gpu) == ("cpu", False)
    assert "without CUDA" in device.reason
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(InputError, match=r"--require-gpu: .* sees no GPU; in a container, .*--gpus all"):
        machine.choose_device(require_gpu=True)


def test_a_gpu_is_taken_unless_the_cpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "H100")
    assert machine.choose_device() == machine.Device("cuda", "H100", "2 visible to CUDA")
    assert machine.choose_device(use_cpu=True).type == "cpu"
    with pytest.raises(InputError, match="contradict"):
        machine.choose_device(require_gpu=True, use_cpu=True)


def test_no_more_threads_than_cpus_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)  # as under docker run --cpus 2
    machine.limit_threads()
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "bfloat16", "expected"),
    [("cpu", True, "float32"), ("mps", True, "float32"), ("cuda", True, "bf16"), ("cuda", False, "fp16")],
)
def test_number_format_for_training(
    monkeypatch: pytest.MonkeyPatch, device: str, bfloat16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    assert machine.choose_precision(device)[0] == expected


@pytest.mark.parametrize(("value", "asked"), [("all", True), ("0,1", True), ("", False), ("void", False)])
def test_a_container_that_was_promised_a_gpu(
    monkeypatch: pytest.MonkeyPatch, value: str, asked: bool
) -> None:
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", value)
    assert bool(machine.gpu_asked_for()) == asked


def test_what_the_results_say_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert json.loads(json.dumps(machine.environment()))["packages"]["torch"] == torch.__version__
    assert machine.git_commit(tmp_path) is None
    for command in ("init -q", "-c user.name=x -c user.email=x commit -q --allow-empty -m x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    assert len(str(machine.git_commit(tmp_path))) == 40
    monkeypatch.setenv("PATH", "")
    assert machine.git_commit(tmp_path) is None


def test_a_box_is_as_wide_as_its_longest_line() -> None:
    assert machine.boxed(["a", "bcd"]).splitlines() == ["╔═════╗", "║ a   ║", "║ bcd ║", "╚═════╝"]

"""Device, threads, number format and what the results files say of the machine."""

from fnmatch import fnmatch
from unittest import mock

import joblib
import pytest
import torch

from goodreads.common import machine
from goodreads.common.errors import InputError

MACHINES = [
    (2, "13.0", {}, "cuda, H100 (2 visible to CUDA): bf16"),
    (1, "13.0", {}, "cuda, H100 (1 visible to CUDA): fp16"),
    (2, "13.0", {"use_cpu": True}, "cpu, * threads (--use_cpu): float32"),
    (0, None, {}, "cpu, * 2 threads (this torch is a build without CUDA): float32"),
    (0, "13.0", {"require_gpu": True}, "--require-gpu: * sees no GPU; in a container, *--gpus all"),
    (2, "13.0", {"require_gpu": True, "use_cpu": True}, "--require-gpu: --use_cpu"),
]


@pytest.mark.parametrize(("gpus", "cuda", "options", "expected"), MACHINES)
def test_the_gpu_or_why_not_and_the_number_format(
    monkeypatch: pytest.MonkeyPatch, gpus: int, cuda: str | None, options: dict[str, bool], expected: str
) -> None:
    found = {"is_available": gpus > 0, "device_count": gpus, "get_device_name": "H100"}
    for name, value in (found | {"is_bf16_supported": gpus == 2}).items():
        monkeypatch.setattr(torch.cuda, name, mock.Mock(return_value=value))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)  # as under docker run --cpus 2
    monkeypatch.setattr(torch, "get_num_threads", threads := mock.Mock(return_value=4))
    monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(threads, "return_value", count))
    try:
        device = machine.choose_device(**options)
        said = f"{device.type}, {device.name} ({device.reason}): {machine.choose_precision(device.type)}"
    except InputError as error:
        said = str(error)
    assert fnmatch(said, f"{expected}*")

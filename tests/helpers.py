"""Run the project's scripts, in a process of their own or in this one, and judge how they end."""

import importlib
import io
import logging
import os
import runpy
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from unittest import mock

from goodreads.common import cli

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--head", 200, "--per-genre", 60, "--train-per-genre", 40)  # 320 train and 160 test reviews
QUICK = ("--recipe", "sample", "--num_train_epochs", 2, "--max_length", 64)  # 20 steps of 32
DROPPED = ("HF_", "HTTP", "HUGGING_FACE", "ALL_PROXY", "GOODREADS_", "ACCELERATE_", "TRANSFORMERS_")
Result = subprocess.CompletedProcess[str]
Env = dict[str, str] | None

# always the same, for a library's log handler keeps its stream from one run_main to the next
_streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]


def environment(home: Path, **extra: str) -> dict[str, str]:
    """The environment of a script under test: loopback is never proxied, caches are the test's own."""
    own = {
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HOME": str(home / "hf"),
        "MPLCONFIGDIR": str(home / "mpl"),
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {k: v for k, v in os.environ.items() if not k.upper().startswith(DROPPED)} | own | extra


def command(script: str, *args: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, args)]


def run_script(script: str, *args: object, cwd: Path, env: Env = None, timeout: float = 300) -> Result:
    """Run a script in ``cwd`` to its end, in a process of its own."""
    words, env = command(script, *args), environment(cwd, **(env or {}))
    return subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


def run_main(script: str, *args: object, cwd: Path, env: Env = None, stdin: str = "") -> Result:
    """Run a script in ``cwd`` to its end in this process, which saves the seconds of importing torch.

    Signals, several processes, and what a library reads from the environment when it is imported
    (huggingface_hub apart) need ``run_script``.
    """
    argv = command(script, *args)[1:]
    source = io.TextIOWrapper(io.BytesIO(stdin.encode()))
    for stream in _streams:
        stream.seek(0)
        stream.truncate()
    with (
        chdir(cwd),
        mock.patch.multiple(sys, argv=argv, stdin=source, stdout=_streams[0], stderr=_streams[1]),
        mock.patch.dict(os.environ, environment(cwd, **(env or {})), clear=True),
        mock.patch.object(logging.root, "handlers", []),  # or the script would not add its own
        mock.patch.object(cli, "_secrets", set()),
    ):
        read_environment()
        if state := sys.modules.get("accelerate.state"):  # it belongs to the run before
            state.AcceleratorState._reset_state(reset_partial_state=True)
        try:
            runpy.run_path(argv[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
    read_environment()
    output = [stream.buffer.getvalue().decode() for stream in _streams]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(argv, status, *output)


def read_environment() -> None:
    """Let huggingface_hub, if it is imported, read the environment variables again."""
    if module := sys.modules.get("huggingface_hub"):
        importlib.reload(module.constants)
        module.close_session()


def succeeded(result: Result) -> Result:
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def assert_one_line_error(result: Result, *fragments: str, code: int = 2) -> None:
    """It ended with ``code`` and exactly one error line, which holds the fragments; no traceback."""
    assert result.returncode == code, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if ": error: " in line]
    assert errors == result.stderr.rstrip().splitlines()[-1:], result.stderr[-3000:]
    for fragment in fragments:
        assert fragment in errors[0]


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".goodreads-tmp")]

"""Run the project's scripts, in a process of their own or in this one, and judge how they end."""

import importlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO
from unittest import mock

from goodreads.common import cli

ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--head", 200, "--per-genre", 60, "--train-per-genre", 40)  # 320 train and 160 test reviews
QUICK = ("--recipe", "sample", "--num_train_epochs", 2, "--max_length", 64)  # 20 steps of 32
DROPPED = ("HF_", "HTTP", "HUGGING_FACE", "ALL_PROXY", "GOODREADS_", "ACCELERATE_", "TRANSFORMERS_")
Result = subprocess.CompletedProcess[str]

# the numbers, not files: a library's log handler keeps its stream from one run_main to the next
_streams = [open(number, "w", buffering=1, encoding="utf-8", closefd=False) for number in (1, 2)]  # noqa: SIM115


def environment(home: Path, **extra: str) -> dict[str, str]:
    """The environment of a script under test: loopback is never proxied, caches are the test's own."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(DROPPED)}
    own = {
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HOME": str(home / "hf"),
        "MPLCONFIGDIR": str(home / "mpl"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return kept | own | extra


def command(script: str, *args: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, args)]


def run_script(
    script: str, *args: object, cwd: Path, env: dict[str, str] | None = None, timeout: float = 300
) -> Result:
    """Run a script in ``cwd`` to its end, in a process of its own."""
    return subprocess.run(
        command(script, *args),
        cwd=cwd,
        env=environment(cwd, **(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def run_main(
    script: str, *args: object, cwd: Path, env: dict[str, str] | None = None, stdin: str = ""
) -> Result:
    """Run a script in ``cwd`` to its end in this process, which saves the seconds of importing torch.

    Signals, several processes, and what a library reads from the environment when it is imported
    (huggingface_hub apart) need ``run_script``.
    """
    argv = [str(ROOT / script), *map(str, args)]
    with tempfile.TemporaryFile("w+") as source, ExitStack() as stack:
        source.write(stdin)
        source.seek(0)
        stack.enter_context(mock.patch.object(sys, "argv", argv))
        stack.enter_context(mock.patch.dict(os.environ, environment(cwd, **(env or {})), clear=True))
        for part in (_folder(cwd), _huggingface_hub(), _signals(), _logging(), _torch()):
            stack.enter_context(part)
        stack.callback(_forget_secrets, set(cli._secrets))
        stack.enter_context(mock.patch.object(sys, "stdin", source))
        outputs = [stack.enter_context(_captured(number)) for number in (1, 2)]
        try:
            runpy.run_path(argv[0], run_name="__main__")
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        texts = []
        for stream, output in zip((sys.stdout, sys.stderr), outputs):
            stream.flush()
            output.seek(0)
            texts.append(output.read())
    return subprocess.CompletedProcess(argv, status, *texts)


@contextmanager
def _folder(path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(path)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def _captured(number: int) -> Iterator[IO[str]]:
    """Send a standard stream, and its file descriptor, to a temporary file."""
    stream = _streams[number - 1]
    before = os.dup(number)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as file:
        os.dup2(file.fileno(), number)
        try:
            with mock.patch.object(sys, ("stdout", "stderr")[number - 1], stream):
                yield file
        finally:
            stream.flush()
            os.dup2(before, number)
            os.close(before)


@contextmanager
def _huggingface_hub() -> Iterator[None]:
    """Let huggingface_hub read the environment again, now and afterwards."""

    def read() -> None:
        if module := sys.modules.get("huggingface_hub"):
            importlib.reload(module.constants)
            module.close_session()

    read()
    with ExitStack() as stack:
        stack.callback(read)
        yield


@contextmanager
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _logging() -> Iterator[None]:
    """Take pytest's handlers away meanwhile, or the script would not add its own."""
    root, own = logging.getLogger(), logging.getLogger("goodreads")
    before = root.handlers[:], root.level, own.level
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = before[0]
        root.setLevel(before[1])
        own.setLevel(before[2])


@contextmanager
def _torch() -> Iterator[None]:
    """Restore torch's threads; accelerate forgets the settings of the run before."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else None
    if state := sys.modules.get("accelerate.state"):
        state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        if torch and threads:
            torch.set_num_threads(threads)


def _forget_secrets(known: set[str]) -> None:
    cli._secrets.intersection_update(known)


def succeeded(result: Result) -> Result:
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def assert_one_line_error(result: Result, *fragments: str, code: int = 2) -> None:
    """It ended with ``code`` and exactly one error line, which holds the fragments; no traceback."""
    assert result.returncode == code, result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if ": error: " in line]
    assert len(errors) == 1, result.stderr[-3000:]
    assert result.stderr.rstrip().splitlines()[-1] == errors[0]
    for fragment in fragments:
        assert fragment in errors[0]


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".goodreads-tmp")]

"""What the end-to-end tests share: running the real scripts and judging how they end."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def environment(home: Path, **extra: str) -> dict[str, str]:
    """The environment of a script under test: loopback is never proxied, caches are the test's own."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.upper().startswith(("HF_", "HTTP", "HUGGING_FACE", "ALL_PROXY"))
    }
    own = {
        "NO_PROXY": "127.0.0.1,localhost",
        "HF_HOME": str(home / "hf"),
        "MPLCONFIGDIR": str(home / "mpl"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return kept | own | extra


def command(script: str, *args: object) -> list[str]:
    return [sys.executable, str(ROOT / script), *map(str, args)]


def run_script(
    script: str, *args: object, cwd: Path, env: dict[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a script in ``cwd`` to its end."""
    return subprocess.run(
        command(script, *args),
        cwd=cwd,
        env=environment(cwd, **(env or {})),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def succeeded(result: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def assert_one_line_error(result: subprocess.CompletedProcess[str], *fragments: str, code: int = 2) -> None:
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

"""How scripts end: exit status, one line, streams, signals and secrets."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT, Result, assert_one_line_error, environment

SCRIPT = f"""
import os, sys, threading, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from goodreads.common.cli import Parser, hide, positive_int, run
from goodreads.common.errors import CheckFailed, InputError, Interrupted
from goodreads.common.files import atomic_files
from goodreads.common.progress import log
def main():
    parser = Parser("Text of the help.", prog="x.py")
    parser.add_argument("--learning_rate", type=float, default=0.1, help="step size")
    parser.add_argument("--per-genre", type=positive_int, default=None, help="how many")
    parser.add_argument("code", help="what to run")
    exec(parser.parse_args().code)
run(main, "x.py")
"""


def run_code(code: str, *options: str, switches: str = "", shell: str = "", **env: str) -> Result:
    """Run Python code as the main function of a script; ``shell`` redirects its streams."""
    arguments = [sys.executable, *switches.split(), "-c", SCRIPT, code, *options]
    if shell:
        arguments = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *arguments]
    env = environment(Path("/nonexistent"), **env)
    return subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=20)


ENDS = [  # code or options, exit status, part of the error line
    ("raise InputError('no\\n such  file')", 2, "x.py: error: no such file"),
    ("raise CheckFailed('different')", 1, "different"),
    ("raise Interrupted(15, 'saved')", 143, "saved"),
    ("raise KeyboardInterrupt", 130, "interrupted"),
    ("raise ValueError('x' * 9999)", 2, "xxx; --debug shows the traceback"),
    ("raise BaseException('a panic')", 2, "BaseException: a panic"),
    ("raise BrokenPipeError(32, 'of a socket')", 141, "of a socket"),
    ("raise InputError('\\x1b[31m\\x00 \\udcff \\u2028 \\u2551')", 2, "\\x1b[31m\\x00 \\udcff ║"),
    ("--lr 3", 2, "unrecognized arguments: --lr 3; did you mean --learning_rate? (see x.py --help)"),
    ("--per-gnere 5", 2, "did you mean --per-genre?"),
    ("--per-genre 99999999999999999999", 2, "99' is not a whole number of at least 1"),
]


@pytest.mark.parametrize(("code", "status", "fragment"), ENDS)
def test_any_exception_and_wrong_usage_are_one_line(code: str, status: int, fragment: str) -> None:
    arguments = ["pass", *code.split()] if code.startswith("--") else [code]
    assert_one_line_error(run_code(*arguments), fragment, code=status)


@pytest.mark.parametrize("switches", ["-O", "-OO", "-W error"])
def test_any_interpreter_switches_and_encoding(switches: str) -> None:
    result = run_code("print('é║\\udcff'); sys.exit(3)", switches=switches, PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stdout, result.stderr) == (3, "\\xe9\\u2551\\udcff\n", "")


@pytest.mark.parametrize(
    ("token", "options", "debug"),
    [("hf_abcDEF", ["--debug"], ""), ("tökén\n\n", [], "1"), ("a'b\\c", [], "0"), ("$(x) %s {y}", [], "")],
)
def test_debug_shows_the_traceback_and_nothing_a_secret(token: str, options: list[str], debug: str) -> None:
    code = """t = os.environ['HF_TOKEN']
hide('another')
log.warning('with %s and %r', t, t)
try: raise ValueError(t)
except ValueError: log.exception('failed')
raise RuntimeError('http://user:pass%w@proxy:3128/ refused another ' + repr(t))"""
    result = run_code(code, *options, HF_TOKEN=token, GOODREADS_DEBUG=debug)
    for form in (token.strip(), repr(token)[1:-1], "pass%w"):
        assert form not in result.stderr + result.stdout
    assert "RuntimeError: http://***@proxy:3128/ refused *** " in result.stderr.splitlines()[-1]
    assert result.returncode == 2
    assert result.stderr.count("Traceback") == 1 + (options != [] or debug == "1")


STREAMS = [  # code, redirections, exit status
    ("print('x'); log.info('y'); input() if sys.stdin.read() else 0", "<&- >&- 2>&-", 0),
    ("print('x'); raise InputError('y')", "2>&-", 2),
    ("sys.exit(os.memfd_create('the next file') == 2)", "2>&-", 0),
    ("print('x\\n' * 100_000)", "| head -1", 141),
    ("print('x\\n' * 100_000)", ">/dev/full", 2),
    ("log.info('x'); raise InputError('y')", "2>/dev/full", 2),
    ("for i in range(9999): print('x', file=sys.stderr)", "2>&1 >/dev/null | head -1", 141),
]


@pytest.mark.parametrize(("code", "shell", "status"), STREAMS)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_broken_and_full_streams(code: str, shell: str, status: int, unbuffered: str) -> None:
    result = run_code(code, shell=shell, PYTHONUNBUFFERED=unbuffered)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr and "Exception ignored" not in result.stderr


@pytest.mark.parametrize("during", ["time.sleep(30)", "while True:\n  try: 1\n  except BaseException: 2"])
def test_sigterm_ends_it_at_once_and_removes_temporaries(tmp_path: Path, during: str) -> None:
    code = f"""with atomic_files(Path({str(tmp_path)!r})) as folder:
 (folder / "a").touch()
 threading.Timer(0.2, os.kill, (os.getpid(), 15)).start()
 {during}"""
    result = run_code(code)
    assert (result.returncode, result.stderr) == (143, "x.py: error: stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_help_takes_less_than_two_seconds_of_cpu_time(script: str, tmp_path: Path) -> None:
    before = os.times()
    command = [sys.executable, "-I", str(ROOT / script), "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 2
    assert shown.startswith(f"usage: {script}") and "--debug" in shown
    assert "SUPPRESS" not in shown and "(default: None)" not in shown


def test_an_interpreter_without_the_packages_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-S", str(ROOT / "data_loader.py")]
    result = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "pip install -r requirements.txt" in result.stderr

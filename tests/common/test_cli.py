"""How scripts end: exit status, one line, streams, signals and secrets."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from goodreads.common import cli
from tests.helpers import ROOT, Result, assert_one_line_error, environment

SCRIPT = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from goodreads.common.cli import Parser, hide, positive_int, run
from goodreads.common.errors import CheckFailed, InputError, Interrupted
from goodreads.common.files import atomic_path
from goodreads.common.progress import log
def main():
    parser = Parser("Text of the help.", prog="x.py")
    parser.add_argument("--learning_rate", type=float, default=0.1, help="step size")
    parser.add_argument("--per-genre", type=positive_int, default=None, help="how many")
    parser.add_argument("code", help="what to run")
    exec(parser.parse_args().code)
run(main, "x.py")
"""


def run_code(code: str, *options: str, switches: tuple[str, ...] = (), shell: str = "", **env: str) -> Result:
    """Run Python code as the main function of a script; ``shell`` redirects its streams."""
    arguments = [sys.executable, *switches, "-c", SCRIPT, code, *options]
    if shell:
        arguments = ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *arguments]
    env = environment(Path("/nonexistent"), **env)
    return subprocess.run(arguments, env=env, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("code", "status", "fragment"),
    [
        ("raise InputError('no\\n such  file')", 2, "x.py: error: no such file"),
        ("raise CheckFailed('different')", 1, "different"),
        ("raise Interrupted(15, 'saved')", 143, "saved"),
        ("raise KeyboardInterrupt", 130, "interrupted"),
        ("raise MemoryError", 2, "out of memory"),
        ("raise KeyError('weight')", 2, "KeyError: 'weight'; for the traceback run again with --debug"),
        ("open('/no/such')", 2, "/no/such: No such file or directory; for the traceback"),
        ("import no_such", 2, "No module named 'no_such'; what the scripts need is installed by: pip"),
        ("raise BaseException('a panic')", 2, "BaseException: a panic"),
        ("raise BrokenPipeError(32, 'of a socket')", 2, "of a socket"),
        ("raise ValueError('x' * 100_000)", 2, "ValueError: xxx"),
        ("raise InputError('\\x1b[31m\\x00 \\udcff \\u2028 \\u2551')", 2, "\\x1b[31m\\x00 \\udcff ║"),
    ],
)
def test_any_exception_is_one_line(code: str, status: int, fragment: str) -> None:
    result = run_code(code)
    assert_one_line_error(result, fragment, code=status)
    assert len(result.stderr) < 3000


def test_success_is_silent_and_exit_codes_of_main_are_kept() -> None:
    assert run_code("print('done')").stdout == "done\n"
    assert run_code("sys.exit(3)").returncode == 3


@pytest.mark.parametrize(("options", "debug"), [(("--debug",), ""), ((), "1"), ((), "0")])
def test_debug_adds_the_traceback_without_secrets(options: tuple[str, ...], debug: str) -> None:
    code = "t = '/'.join(['tok', 'en']); hide(t); raise KeyError(t)"
    result = run_code(code, *options, GOODREADS_DEBUG=debug)
    assert result.returncode == 2
    assert ("Traceback" in result.stderr) == (options != () or debug == "1")
    assert "KeyError: '***'" in result.stderr.splitlines()[-1]
    assert "tok/en" not in result.stderr


@pytest.mark.parametrize("token", ["hf_abcDEF", "tökén\n\n", "a'b\\c", "$(x) %s {y}"])
def test_tokens_and_passwords_are_redacted_everywhere(token: str) -> None:
    code = """t = os.environ['HF_TOKEN']
log.warning('with %s and %r', t, t)
try: raise ValueError(t)
except ValueError: log.exception('failed')
raise RuntimeError('http://user:pass%w@proxy:3128/ refused ' + repr(t))"""
    result = run_code(code, HF_TOKEN=token)
    for form in (token.strip(), repr(token)[1:-1], "pass%w"):
        assert form not in result.stderr + result.stdout
    assert "http://***@proxy:3128/" in result.stderr
    assert result.returncode == 2


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ("--lr 3", "unrecognized arguments: --lr 3; did you mean --learning_rate? (see x.py --help)"),
        ("--learning-rte=3", "did you mean --learning_rate?"),
        ("--learn 3", "did you mean --learning_rate?"),
        ("-lr 3", "did you mean --learning_rate?"),
        ("--genre 5", "did you mean --per-genre?"),
        ("--zzz", "unrecognized arguments: --zzz (see"),
        ("--per-genre 0", "'0' is not a whole number of at least 1"),
        ("--per-genre x", "'x' is not a whole number"),
        ("--per-genre 99999999999999999999", "is not a whole number"),
    ],
)
def test_usage_errors_say_what_was_meant(options: str, fragment: str) -> None:
    assert_one_line_error(run_code("pass", *options.split()), fragment)


def test_similar_options_are_few_and_found_by_initials_part_and_spelling() -> None:
    options = ["--learning_rate", "--lr_scheduler_type", "--num_train_epochs", "--effective_batch_size"]
    assert cli.similar_options("lr", options) == ["--learning_rate"]
    assert cli.similar_options("batch-size", options) == ["--effective_batch_size"]
    assert cli.similar_options("e", options) == []
    assert len(cli.similar_options("a_b", [f"--a_b{i}" for i in range(9)])) == 3


@pytest.mark.parametrize("columns", ["0", "1", "-5", "abc", "100000"])
def test_help_reads_at_any_width_and_leaves_out_empty_defaults(columns: str) -> None:
    result = run_code("pass", "--help", COLUMNS=columns)
    assert result.returncode == 0, result.stderr
    assert "Text of the help." in result.stdout
    assert "0.1" in result.stdout
    assert "None" not in result.stdout


@pytest.mark.parametrize(
    ("code", "shell", "status"),
    [
        ("print('x'); log.info('y'); input() if sys.stdin.read() else 0", "<&- >&- 2>&-", 0),
        ("print('x'); raise InputError('y')", "2>&-", 2),
        ("print('x\\n' * 100_000)", "| head -1", 141),
        ("print('x\\n' * 100_000)", ">/dev/full", 2),
        ("log.info('x'); raise InputError('y')", "2>/dev/full", 2),
        ("for i in range(9999): print('x', file=sys.stderr)", "2>&1 >/dev/null | head -1", 141),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_broken_and_full_streams(code: str, shell: str, status: int, unbuffered: str) -> None:
    result = run_code(code, shell=shell, PYTHONUNBUFFERED=unbuffered)
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


def test_a_closed_stderr_is_not_replaced_by_the_next_file(tmp_path: Path) -> None:
    path = tmp_path / "made"
    code = f"f = open({str(path)!r}, 'w'); log.error('lost'); f.write('kept')"
    assert run_code(code, shell="2>&-").returncode == 0
    assert path.read_text() == "kept"


def test_an_ascii_terminal_gets_escapes() -> None:
    result = run_code("print('é║\\udcff'); log.warning('é║')", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "\\xe9\\u2551\\udcff\n"


@pytest.mark.parametrize("switches", ["-O", "-OO", "-W error", "-I", "-X dev", "-bb"])
def test_switches_of_the_interpreter(switches: str) -> None:
    result = run_code("raise InputError('plain')", switches=tuple(switches.split()))
    assert_one_line_error(result, "x.py: error: plain")


@pytest.mark.parametrize(
    "during", ["time.sleep(30)", "while True:\n  try: time.sleep(0.1)\n  except BaseException: pass"]
)
def test_sigterm_ends_within_two_seconds_and_removes_temporaries(tmp_path: Path, during: str) -> None:
    code = f"""with atomic_path(Path({str(tmp_path / "made")!r})) as t:
 t.touch(); print('ready', flush=True)
 {during}"""
    command = [sys.executable, "-c", SCRIPT, code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "ready\n"
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=5) == 143
        assert time.monotonic() - started < 2
        assert process.stderr.read() == "x.py: error: stopped by SIGTERM\n"
    assert list(tmp_path.iterdir()) == []


def test_a_forked_worker_that_is_stopped_leaves_its_parents_files(tmp_path: Path) -> None:
    code = f"""with atomic_path(Path({str(tmp_path / "made")!r})) as t:
  t.write_text('kept')
  child = os.fork()
  if not child: time.sleep(30)
  time.sleep(0.3)  # Python forgets signals that come while it forks
  os.kill(child, 15)
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"""
    result = run_code(code)
    assert (result.stdout, result.stderr) == ("143\n", "")
    assert (tmp_path / "made").read_text() == "kept"


@pytest.mark.parametrize("script", sorted(path.name for path in ROOT.glob("*.py")))
def test_the_scripts_help_is_quick_and_needs_no_import_path(script: str, tmp_path: Path) -> None:
    before = os.times()
    command = [sys.executable, "-I", str(ROOT / script), "--help"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    after = os.times()
    assert result.returncode == 0, result.stderr
    assert "--debug" in result.stdout
    assert "SUPPRESS" not in result.stdout
    seconds = after.children_user - before.children_user + after.children_system - before.children_system
    assert seconds < 2, "processor time; the slow imports belong after the command line"


def test_an_interpreter_without_the_packages_is_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-S", str(ROOT / "data_loader.py")]
    result = subprocess.run(command, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert "pip install -r requirements.txt" in result.stderr

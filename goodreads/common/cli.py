"""Command lines that read well and fail in one line.

Logs and progress go to stderr; stdout carries results only. Exit codes: 0 done, 1 a check failed,
2 usage or input, 128 + signal number when interrupted.
"""

import argparse
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from goodreads.common import sigterm
from goodreads.common.errors import CheckFailed, InputError, Interrupted
from goodreads.common.progress import log


class _HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, ""):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """An argument parser whose help is the script's docstring and whose errors are one line."""

    def __init__(self, doc: str | None, **kwargs: Any) -> None:
        super().__init__(
            description=(doc or "").strip(), formatter_class=_HelpFormatter, allow_abbrev=False, **kwargs
        )

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 after one line."""
        one_line_error(self.prog, f"{message} (see {self.prog} --help)")
        raise SystemExit(2)


def positive_int(text: str) -> int:
    """argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return value


def whole_number(text: str) -> int:
    """argparse type: an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def one_line_error(prog: str, message: object) -> None:
    """Print ``prog: error: message`` on stderr, as one line whatever the message holds."""
    print(f"{prog}: error: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def run(main: Callable[[], None], prog: str) -> NoReturn:
    """Run a script's ``main`` and turn its outcome into an exit code and, on failure, one line."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    log.setLevel(logging.INFO)
    try:
        sigterm.install(lambda: one_line_error(prog, "stopped by SIGTERM"))
        main()
        sys.stdout.flush()
    except InputError as error:
        one_line_error(prog, error)
        sys.exit(2)
    except CheckFailed as error:
        one_line_error(prog, error)
        sys.exit(1)
    except Interrupted as error:
        one_line_error(prog, error)
        sys.exit(128 + error.signum)
    except sigterm.Terminated:
        sigterm.leave()
    except KeyboardInterrupt:
        one_line_error(prog, "interrupted")
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of stdout went away, as `| head` does
        sys.stderr.close()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:  # no place to write temporary files, for example
        one_line_error(prog, error)
        sys.exit(2)
    sys.exit(0)

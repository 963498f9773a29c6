"""Command lines that read well and fail in one line.

Logs and progress go to stderr; stdout carries results only. Exit codes: 0 done, 1 a check failed,
2 usage or input, 128 + signal number when interrupted.
"""

import argparse
import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, NoReturn

from goodreads import sigterm

log = logging.getLogger("goodreads")


class InputError(Exception):
    """Bad input or usage: the message is one line that says what, where and what to do (exit 2)."""


class CheckFailed(Exception):
    """A check of results failed: the message is one line that says which (exit 1)."""


class Interrupted(Exception):
    """Stopped by a signal after saving what could be saved (exit 128 + ``signum``)."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


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


class Progress:
    """A tqdm bar on a terminal; elsewhere a plain line every ``every`` seconds and one at the end.

    Args:
        label, total, unit: what is counted, how many there will be if that is known, and of what.
        position: line of the terminal.
        every: seconds between lines.
        note: says what is shown after the count, given the seconds since the start; asked only when needed.
    """

    def __init__(
        self,
        label: str,
        total: int | None,
        unit: str,
        position: int = 0,
        every: float = 10.0,
        note: Callable[[float], str] = lambda seconds: "",
    ) -> None:
        self.label, self.total, self.unit, self.every, self.note = label, total, unit, every, note
        self.count = 0
        self._started = self._last = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.every = 0.1  # as often as the bar draws itself
            self._bar = tqdm(total=total, desc=label, unit=f" {unit}", position=position, leave=position == 0)

    def update(self, n: int) -> None:
        """Count ``n`` more units."""
        self.count += n
        if time.monotonic() - self._last >= self.every:
            self._last = time.monotonic()
            self._show()
        if self._bar is not None:
            self._bar.update(n)

    def close(self) -> None:
        """Take the bar away, or print the closing line."""
        self._show()
        if self._bar is not None:
            self._bar.close()

    def _show(self) -> None:
        """The bar's note, or a line."""
        seconds = time.monotonic() - self._started
        note = self.note(seconds)
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            return
        rate = self.count / seconds if seconds else 0.0
        count = f"{self.count:,}" if self.total is None else f"{self.count:,} of {self.total:,}"
        log.info("%s: %s %s, %.0f/s%s", self.label, count, self.unit, rate, note and f"; {note}")

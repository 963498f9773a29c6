"""Command lines that read well and fail in one line.

The log and progress go to stderr, results to stdout. Exit status: 0 done, 1 a check failed, 2 usage, input or
any other error, 128 + signal number when stopped by a signal.
"""

import argparse
import difflib
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from goodreads.common.errors import CheckFailed, InputError, Interrupted
from goodreads.common.files import remove_temporaries
from goodreads.common.progress import log

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_secrets: set[str] = set()


class HelpFormatter(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the description's lines, and says each option's default."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose help is the script's docstring and whose errors are one line.

    Args:
        doc: the docstring; None under ``python -OO``.
        kwargs: as for ``argparse.ArgumentParser``.
    """

    def __init__(self, doc: str | None, **kwargs: Any) -> None:
        super().__init__(
            description=(doc or "").strip(), formatter_class=HelpFormatter, allow_abbrev=False, **kwargs
        )
        self.add_argument("--debug", action="store_true", help="print the traceback of an error")

    def format_help(self) -> str:
        """The help, without the defaults that say nothing."""
        return re.sub(r"\s+\(default:\s+(None|False)\)", "", super().format_help())

    def error(self, message: str) -> NoReturn:
        """End with status 2 after one line, which names similar options if one is unknown."""
        hint = ""
        if unknown := re.match(r"unrecognized arguments: --([\w-]+)", message):
            options = re.findall(r"--[\w-]+", self.format_help())
            if similar := similar_options(unknown[1], options):
                hint = f"; did you mean {' or '.join(similar)}?"
        one_line_error(self.prog, f"{message}{hint} (see {self.prog} --help)")
        raise SystemExit(2)


def similar_options(name: str, options: list[str]) -> list[str]:
    """At most three of the options that ``name`` may stand for, by spelling, first part or initials."""
    known = {option.lstrip("-").replace("-", "_"): option for option in options}
    name = name.replace("-", "_")
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    close += [key for key in known if key.startswith(name) or name == "".join(w[0] for w in key.split("_"))]
    return [known[key] for key in dict.fromkeys(close)][:3]


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


def hide(secret: str | None) -> None:
    """Never let ``secret`` appear in an error, a traceback or the log."""
    if secret and len(secret) > 3:
        _secrets.update({secret, secret.strip()})


def redacted(text: str) -> str:
    """The text with every known secret replaced by ``***``."""
    for name in TOKEN_VARIABLES:
        hide(os.environ.get(name))
    for secret in sorted(_secrets, key=len, reverse=True):
        for form in (secret, repr(secret)[1:-1]):
            text = text.replace(form, "***")
    return text


def one_line_error(prog: str, message: object) -> None:
    """Print ``prog: error: message`` on stderr, as one line whatever the message holds."""
    print(f"{prog}: error: {' '.join(redacted(str(message)).split())}", file=sys.stderr, flush=True)


def debugging() -> bool:
    """Whether the user asked for tracebacks, by ``--debug`` or ``GOODREADS_DEBUG=1``."""
    return "--debug" in sys.argv[1:] or os.environ.get("GOODREADS_DEBUG", "") not in ("", "0")


def run(main: Callable[[], None], prog: str) -> NoReturn:
    """Run a script's ``main`` and turn its outcome into an exit status and, on failure, one line."""
    _open_streams()
    _start_log()

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        # straight out: the interpreter's own end can take seconds, and a library could swallow an exception
        remove_temporaries()
        os.write(2, f"{prog}: error: stopped by SIGTERM\n".encode())  # print is not safe in a handler
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of stdout went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (Exception, KeyboardInterrupt) as error:
        if debugging():
            print(redacted(traceback.format_exc()), file=sys.stderr, end="")
        message, status = _outcome(error)
        one_line_error(prog, message)
        sys.exit(status)
    sys.exit(0)


def _outcome(error: BaseException) -> tuple[str, int]:
    """What to say about an error, and the exit status."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, CheckFailed):
        return str(error), 1
    if isinstance(error, Interrupted):
        return str(error), 128 + error.signum
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 128 + signal.SIGINT
    if isinstance(error, MemoryError):
        return "out of memory", 2
    kind = "" if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: "
    return f"{kind}{error}; for the traceback run again with --debug", 2


def _open_streams() -> None:
    """Give closed standard streams the null device, and let the others print any character.

    Without this a file or socket that is opened next takes the number of a closed stream and gets its output.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _start_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))

    def redact(record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), None
        return True

    handler.addFilter(redact)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(logging.INFO)

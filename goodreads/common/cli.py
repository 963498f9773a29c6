"""Command lines that read well and fail in one line.

The log and progress go to stderr, results to stdout. Exit status: 0 done, 1 a check failed, 2 usage, input or
any other error, 128 + signal number when stopped by a signal.
"""

import argparse
import difflib
import io
import logging
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from goodreads.common.errors import Ended
from goodreads.common.files import remove_temporaries
from goodreads.common.progress import log

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
LONGEST = 2000  # characters of a library's message
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
        if unknown := re.search(r"^unrecognized arguments: (?:.* )?--?([\w-]+)", message):
            options = re.findall(r"--[\w-]+", self.format_usage())
            if similar := similar_options(unknown[1], options):
                hint = f"; did you mean {' or '.join(similar)}?"
        one_line_error(self.prog, f"{message}{hint} (see {self.prog} --help)")
        raise SystemExit(2)


def similar_options(name: str, options: list[str]) -> list[str]:
    """At most three of the options that ``name`` may stand for: by initials, as a part of it, by spelling."""
    known = {option.lstrip("-").replace("-", "_"): option for option in options}
    name = name.replace("-", "_")
    found = [key for key in known if name == "".join(word[0] for word in key.split("_") if word)]
    found += [key for key in known if len(name) > 2 and name in key]
    found += difflib.get_close_matches(name, known, n=2, cutoff=0.7)
    return [known[key] for key in dict.fromkeys(found)][:3]


def whole_number(text: str, least: int = 0) -> int:
    """argparse type: an integer of at least 0."""
    with suppress(ValueError):
        if least <= int(text) <= sys.maxsize:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")


def positive_int(text: str) -> int:
    """argparse type: an integer of at least 1."""
    return whole_number(text, 1)


def hide(secret: str | None) -> None:
    """Never let ``secret`` appear in an error, a traceback or the log."""
    if secret and len(secret.strip()) > 3:
        _secrets.update({secret, secret.strip()})


def redacted(text: str) -> str:
    """The text with every known secret, and every password in a URL, replaced by ``***``."""
    for name in TOKEN_VARIABLES:
        hide(os.environ.get(name))
    for secret in sorted(_secrets, key=len, reverse=True):
        for form in (secret, repr(secret)[1:-1]):
            text = text.replace(form, "***")
    return re.sub(r"(\w://)[^/\s@]+@", r"\1***@", text)


def one_line_error(prog: str, message: object) -> None:
    """Print ``prog: error: message`` on stderr, as one line whatever the message holds."""
    line = " ".join(redacted(str(message)).split())
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], line)
    with suppress(OSError):  # nobody reads it
        print(f"{prog}: error: {line}", file=sys.stderr, flush=True)


def debugging() -> bool:
    """Whether the user asked for tracebacks, by ``--debug`` or ``GOODREADS_DEBUG=1``."""
    return "--debug" in sys.argv[1:] or os.environ.get("GOODREADS_DEBUG", "") not in ("", "0")


def run(main: Callable[[], None], prog: str) -> NoReturn:
    """Run a script's ``main`` and turn its outcome into an exit status and, on failure, one line."""
    _open_streams()
    _start_log()
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        # straight out: the interpreter's own end can take seconds, and a library could swallow an exception
        if os.getpid() == process:  # a worker process that was forked leaves everything to its parent
            remove_temporaries()
            with suppress(OSError):
                os.write(2, f"{prog}: error: stopped by SIGTERM\n".encode())  # print is not safe in a handler
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    try:
        try:
            main()
        finally:
            sys.stdout.flush()
    except SystemExit:
        raise
    except BaseException as error:  # a panic in a library written in Rust is no Exception
        if isinstance(error, BrokenPipeError) and _readers_left():
            _discard_output()
            sys.exit(128 + signal.SIGPIPE)
        if debugging():
            print(redacted(traceback.format_exc()), file=sys.stderr, end="")
        message, status = _outcome(error)
        one_line_error(prog, message)
        _discard_output()
        sys.exit(status)
    sys.exit(0)


def _readers_left() -> bool:
    """Whether stdout or stderr is a pipe that nobody reads any more, as after ``| head``."""
    poll = select.poll()
    poll.register(1, 0)
    poll.register(2, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def _discard_output() -> None:
    """Send what cannot be written to the null device, or Python complains about it when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _outcome(error: BaseException) -> tuple[str, int]:
    """What to say about an error, and the exit status."""
    if isinstance(error, Ended):
        return str(error), error.status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 128 + signal.SIGINT
    if isinstance(error, MemoryError):
        return "out of memory", 2
    if isinstance(error, ModuleNotFoundError):
        return f"{error}; what the scripts need is installed by: pip install -r requirements.txt", 2
    said = f"{type(error).__name__}: {str(error)[:LONGEST]}"
    if isinstance(error, OSError) and error.strerror:
        said = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{said}; for the traceback run again with --debug", 2


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
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _start_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    log.setLevel(logging.INFO)

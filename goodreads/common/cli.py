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
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TextIO

from goodreads.common.errors import Ended, InputError
from goodreads.common.files import remove_temporaries
from goodreads.common.progress import log

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
        super().__init__(description=doc, formatter_class=HelpFormatter, allow_abbrev=False, **kwargs)
        self.add_argument("--debug", action="store_true", help="print the traceback of an error")

    def format_help(self) -> str:
        """The help, without the defaults that say nothing."""
        return re.sub(r"\s+\(default:\s+(None|False)\)", "", super().format_help())

    def error(self, message: str) -> NoReturn:
        """Raise InputError, which names similar options if one is unknown."""
        unknown = re.search(r"unrecognized arguments: (?:.* )?--?([\w-]+)", message)
        if unknown and (similar := similar_options(unknown[1], self.format_usage())):
            message += f"; did you mean {' or '.join(similar)}?"
        raise InputError(f"{message} (see {self.prog} --help)")


def similar_options(name: str, usage: str) -> list[str]:
    """At most three options of the usage that ``name`` may stand for: by initials, or by spelling."""
    name = name.replace("-", "_")
    known = {option.strip("-").replace("-", "_"): option for option in re.findall(r"--[\w-]+", usage)}
    found = [key for key in known if name == "".join(word[:1] for word in key.split("_"))]
    return [known[key] for key in (found + difflib.get_close_matches(name, known))[:3]]


def whole_number(text: str, least: int = 0) -> int:
    """argparse type: an integer of at least ``least``."""
    if text.isdecimal() and least <= int(text) <= sys.maxsize:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")


positive_int = partial(whole_number, least=1)


def hide(secret: str | None) -> None:
    """Never let ``secret`` appear in an error, a traceback or the log."""
    if secret and len(secret.strip()) > 3:
        _secrets.add(secret.strip())


def redacted(text: str) -> str:
    """The text with every known secret, and every password in a URL, replaced by ``***``."""
    for secret in _secrets:
        text = text.replace(secret, "***").replace(repr(secret)[1:-1], "***")
    return re.sub(r"(\w://)[^/\s@]+@", r"\1***@", text)


def run(main: Callable[[], None], prog: str) -> NoReturn:
    """Run a script's ``main`` and turn its outcome into an exit status and, on failure, one line."""
    _prepare(prog)
    status: int | str | None = 0
    try:
        main()
    except SystemExit as end:
        status = end.code
    except BaseException as error:  # a panic in a library written in Rust is no Exception
        status = _report(error, prog)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            status = status or _report(error, prog)
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python complains when it ends
    sys.exit(status)


def _prepare(prog: str) -> None:
    """Standard streams that take anything, a log without secrets, and an end at once on SIGTERM."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed; the next file would take its number and get its output
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
        if mode == "w":
            getattr(sys, name).reconfigure(errors="backslashreplace")
    hide(os.environ.get("HF_TOKEN"))
    hide(os.environ.get("HUGGING_FACE_HUB_TOKEN"))
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[_Handler()])
    log.setLevel(logging.INFO)

    def stop(number: int, frame: object) -> NoReturn:
        # straight out: the interpreter's own end can take seconds, and a library could swallow an exception
        remove_temporaries()
        with suppress(OSError):
            os.write(2, f"{prog}: error: stopped by SIGTERM\n".encode())  # print is not safe in a handler
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, stop)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes to stderr, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def _report(error: BaseException, prog: str) -> int:
    """Print what went wrong as one line, whatever the message holds, and return the exit status."""
    if "--debug" in sys.argv[1:] or os.environ.get("GOODREADS_DEBUG", "0") not in ("", "0"):
        print(redacted("".join(traceback.format_exception(error))), file=sys.stderr, end="")
    if isinstance(error, Ended):
        said, status = str(error), error.status
    elif isinstance(error, KeyboardInterrupt):
        said, status = "interrupted", 128 + signal.SIGINT
    elif isinstance(error, BrokenPipeError):  # as after ``| head``
        said, status = f"nobody reads what is written ({error})", 128 + signal.SIGPIPE
    else:
        said, status = f"{type(error).__name__}: {str(error)[:2000]}; --debug shows the traceback", 2
    line = " ".join(redacted(said).split())
    line = re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], line)
    with suppress(OSError):  # nobody reads it
        print(f"{prog}: error: {line}", file=sys.stderr, flush=True)
    return status

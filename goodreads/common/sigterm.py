"""SIGTERM ends a script within ``GRACE`` seconds, with exit status 143.

The kernel spares PID 1 in a container from signals without a handler, so one is needed there. It raises in
the main thread, so that unfinished files go; but Python runs it only between two bytecodes, and a batch or
the import of a library can take longer than that: then a thread ends the process.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

STATUS = 128 + signal.SIGTERM
GRACE = 0.5  # seconds for the main thread to end by itself
said = threading.Event()  # the user has been told


class Terminated(BaseException):
    """SIGTERM came; no ``Exception``, which a library might take for a failure of its own."""


def handle(number: int, frame: FrameType | None) -> NoReturn:
    """Raise Terminated, once: another SIGTERM must not break into the cleaning up."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated


def leave() -> NoReturn:
    """End the process once the user has been told: the interpreter's own end can take seconds."""
    said.wait(GRACE)
    os._exit(STATUS)


def install(say: Callable[[], None]) -> None:
    """Handle SIGTERM from now on; code that then sets a handler of its own, as training does, has it.

    Args:
        say: tells the user, once, by whichever thread ends the process.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, handle)
    threading.Thread(target=_watch, args=(reader, say), daemon=True).start()


def _watch(reader: int, say: Callable[[], None]) -> None:
    # the wakeup descriptor is written to when the signal comes, whatever the main thread is doing
    while number := os.read(reader, 1):
        ours = signal.getsignal(signal.SIGTERM) in (handle, signal.SIG_IGN)
        if number[0] == signal.SIGTERM and ours:
            say()
            said.set()
            time.sleep(GRACE)
            os._exit(STATUS)

"""The log, and progress: a bar on a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

log = logging.getLogger("goodreads")


class Progress:
    """A tqdm bar on a terminal; elsewhere a line every ``every`` seconds and one at the end.

    Args:
        label, total, unit: what is counted, how many there will be if known, and of what.
        position: line of the terminal.
        every: seconds between lines.
        note: text shown after the count, given the seconds since the start; called only when it is shown.
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
        self._started = self._shown = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self.every = 0.1  # as often as the bar draws itself
            self._bar = tqdm(total=total, desc=label, unit=f" {unit}", position=position, leave=position == 0)

    def update(self, n: int) -> None:
        """Count ``n`` more units."""
        self.count += n
        if time.monotonic() - self._shown >= self.every:
            self._shown = time.monotonic()
            self._show()
        if self._bar is not None:
            self._bar.update(n)

    def close(self) -> None:
        """Remove the bar, or print the last line."""
        self._show()
        if self._bar is not None:
            self._bar.close()

    def _show(self) -> None:
        seconds = time.monotonic() - self._started
        note = self.note(seconds)
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            return
        rate = self.count / seconds if seconds else 0.0
        total = "" if self.total is None else f" of {self.total:,}"
        text = f"{self.label}: {self.count:,}{total} {self.unit}, {rate:.0f}/s"
        log.info("%s", f"{text}; {note}" if note else text)

"""The log, and progress: a bar on a terminal, plain lines in a log."""

import logging
import sys
import time
from collections.abc import Callable

from tqdm import tqdm

SECONDS = 10.0  # between plain lines
Note = Callable[[float], str]
log = logging.getLogger("goodreads")


class Progress:
    """A tqdm bar on a terminal; elsewhere a line every ten seconds and one at the end.

    Args:
        label, total, unit: what is counted, how many there will be if known, and of what.
        position: line of the terminal.
        note: text shown after the count, given the seconds since the start.
    """

    def __init__(
        self, label: str, total: int | None, unit: str, position: int = 0, note: Note = lambda seconds: ""
    ) -> None:
        self.label, self.unit, self.note, self.count = label, unit, note, 0
        self._of = "" if total is None else f" of {total:,}"
        self._started = self._shown = time.monotonic()
        self._plain = not sys.stderr.isatty()
        bar = {"unit": f" {unit}", "position": position, "leave": position == 0}
        self._bar = tqdm(total=total, desc=label, disable=self._plain, **bar)

    def update(self, n: int) -> None:
        """Count ``n`` more units."""
        self.count += n
        now = time.monotonic()
        if self._plain and now - self._shown >= SECONDS:
            self._shown = now
            self._log()
        self._bar.set_postfix_str(self.note(now - self._started), refresh=False)
        self._bar.update(n)

    def close(self) -> None:
        """Remove the bar, or print the last line."""
        self._bar.close()
        if self._plain:
            self._log()

    def _log(self) -> None:
        seconds = time.monotonic() - self._started
        rate, note = self.count / max(seconds, 1e-9), self.note(seconds)
        text = f"{self.label}: {self.count:,}{self._of} {self.unit}, {rate:.0f}/s"
        log.info("%s", f"{text}; {note}" if note else text)

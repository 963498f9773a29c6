"""The log, and progress: a bar on a terminal, plain lines in a log."""

import logging
import sys
import time

from tqdm import tqdm

SECONDS = 10.0  # between plain lines
log = logging.getLogger("goodreads")


class Progress:
    """A tqdm bar on a terminal; elsewhere a line every ten seconds and one at the end.

    Args:
        label, total, unit: what is counted, how many there will be if known, and of what.
    """

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.unit, self.count = label, unit, 0
        self._of = "" if total is None else f" of {total:,}"
        self._started = self._shown = time.monotonic()
        self._plain = not sys.stderr.isatty()
        # of several bars at once only the first is left standing
        self._bar = tqdm(total=total, desc=label, unit=f" {unit}", leave=None, disable=self._plain)

    def update(self, n: int) -> None:
        """Count ``n`` more units."""
        self.count += n
        self._bar.update(n)
        if self._plain and time.monotonic() - self._shown >= SECONDS:
            self._log()

    def close(self) -> None:
        """Remove the bar, or print the last line."""
        self._bar.close()
        if self._plain:
            self._log()

    def _log(self) -> None:
        self._shown = time.monotonic()
        rate = self.count / max(self._shown - self._started, 1e-9)
        log.info("%s: %s%s %s, %.0f/s", self.label, f"{self.count:,}", self._of, self.unit, rate)

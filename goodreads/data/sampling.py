"""Which lines of a stream are kept: the reference's draw, or a sample of a stream of unknown length."""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Protocol

Kept = list[tuple[int, bytes]]  # (index of the line in its file, from 0; the line)


class Sampler(Protocol):
    """What ``goodreads.data.reading.sample_lines`` asks for lines to keep.

    Attributes:
        next: index of the next line that is wanted; ``END`` if none is.
    """

    next: int

    def take(self, line: bytes) -> None:
        """Give it the line at ``next``; ``next`` moves on."""

    def kept(self) -> Kept:
        """The sample, in the order in which it was drawn."""


END = 1 << 62


def draw_indices(counts: Mapping[str, int], per_genre: int, seed: int) -> dict[str, list[int]]:
    """Which reviews the reference samples: for each genre in turn ``sample(reviews, per_genre)``.

    ``random.sample`` looks at the population's length alone, so indices can be drawn before reading.

    Args:
        counts: genre -> number of reviews to sample from, in sampling order.
        per_genre: reviews to sample; all of them where there are fewer.
        seed: of the one ``random.Random`` that serves every genre.
    """
    rng = random.Random(seed)
    return {genre: rng.sample(range(n), min(per_genre, n)) for genre, n in counts.items()}


class Chosen:
    """Keeps the lines at given indices; those beyond the file's end are left out."""

    def __init__(self, indices: Sequence[int]) -> None:
        self._indices, self._lines = indices, dict[int, bytes]()
        self._left = iter(sorted(indices))
        self.next = next(self._left, END)

    def take(self, line: bytes) -> None:
        """Keep the line."""
        self._lines[self.next] = line
        self.next = next(self._left, END)

    def kept(self) -> Kept:
        """The lines in the order of the indices given."""
        return [(index, self._lines[index]) for index in self._indices if index in self._lines]


class Reservoir:
    """A uniform sample without replacement of ``size`` lines of a stream of any length, in random order.

    Algorithm L of K.-H. Li, "Reservoir-sampling algorithms of time complexity O(n(1+log(N/n)))", ACM
    Transactions on Mathematical Software 20 (1994): it draws how many lines to skip, so that of 2 million
    lines fewer than 10,000 are looked at for a sample of 1,000.
    """

    def __init__(self, size: int, seed: str) -> None:
        self._size, self._rng = size, random.Random(seed)
        self._slots: Kept = []
        self._log_w = 0.0
        self.next = 0

    def take(self, line: bytes) -> None:
        """Put the line into a free slot, or into a random one's place."""
        if len(self._slots) < self._size:
            self._slots.append((self.next, line))
        else:
            self._slots[self._rng.randrange(self._size)] = (self.next, line)
        self.next += 1 if len(self._slots) < self._size else self._skip()

    def _skip(self) -> int:
        # 1 - random() is never 0, whose logarithm there is none of
        self._log_w += math.log(1 - self._rng.random()) / self._size
        beyond = math.log1p(-math.exp(self._log_w))
        return 1 + math.floor(math.log(1 - self._rng.random()) / beyond) if beyond else END

    def kept(self) -> Kept:
        """The sample in random order."""
        order = self._slots.copy()
        self._rng.shuffle(order)  # a slot says when a line came; the split must not
        return order

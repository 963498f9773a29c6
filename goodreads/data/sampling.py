"""What decides a split, which reviews are drawn, and which of the two splits each one joins."""

import math
import random
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self, get_type_hints

from goodreads.common.errors import InputError
from goodreads.common.progress import log
from goodreads.data.genres import GENRES, parse_genres
from goodreads.data.resumable_http import Limits
from goodreads.data.review_files import UCSD, ReviewFile, Source, read_genres
from goodreads.data.review_parser import Review, TolerantParser

MOST = 1 << 53  # JSON readers keep whole numbers exact up to here
MOST_DRAWN = 10_000_000  # per genre: more than any file has, and what memory holds
RANGES = (
    *(("head", 1, MOST), ("per_genre", 1, MOST_DRAWN), ("train_per_genre", 1, MOST_DRAWN)),
    *(("seed", 0, MOST), ("max_bad_lines", 0, MOST)),
)
Row = dict[str, Any]  # one row of a split, with the columns of split_store.SCHEMA


@dataclass(frozen=True)
class Parameters:
    """What decides the split; equal parameters on an equal source give an equal split.

    Attributes:
        source: base URL, folder or ``sample``.
        genres: slugs in sampling order.
        head, per_genre, train_per_genre: reviews per genre that are read, sampled, and put into the train
            split. None means all: of ``head`` the whole file, of the other two (together) all that is not
            held out.
        seed: of the one generator that samples every genre in turn.
        drop_duplicates: drop train reviews whose text or id also stands in the test split.
        allow_fewer: accept a genre with fewer than ``per_genre`` reviews.
        max_bad_lines: lines of a genre that may be no reviews; they are left out.
        test_split: ``content_sha256`` of the test split that is held out where ``per_genre`` is None.

    Raises:
        InputError: one is out of range, or they contradict each other.
    """

    source: str = UCSD
    genres: tuple[str, ...] = tuple(parse_genres(",".join(GENRES)))
    head: int | None = 10_000
    per_genre: int | None = 1_000
    train_per_genre: int | None = 800
    seed: int = 42
    drop_duplicates: bool = False
    allow_fewer: bool = False
    max_bad_lines: int = 0
    test_split: str = ""

    def __post_init__(self) -> None:
        for name, low, high in RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InputError(f"{_option(name)} {value} is not between {low} and {high}")
        if "@" in self.source.partition("://")[2].partition("/")[0]:
            raise InputError("--source holds a user name, which would be published; put it into ~/.netrc")
        if self.per_genre is None or self.train_per_genre is None:
            if self.per_genre != self.train_per_genre:
                raise InputError("--per-genre all goes without --train-per-genre")
        elif self.train_per_genre >= self.per_genre:
            raise InputError(
                f"--train-per-genre {self.train_per_genre} leaves no test reviews of {self.per_genre}"
            )
        elif self.head is not None and self.per_genre > self.head:
            raise InputError(f"--per-genre {self.per_genre} is more than --head {self.head}")

    def as_json(self) -> dict[str, Any]:
        """As they stand in the manifest."""
        return {**asdict(self), "genres": list(self.genres)}

    @classmethod
    def from_json(cls, document: Any, where: str) -> Self:
        """Parameters from a manifest; what an older version did not write has its default.

        Args:
            document: the JSON value.
            where: names the manifest in an error.

        Raises:
            InputError: it does not hold parameters, or some that this version does not know.
        """
        kinds = get_type_hints(cls) | {"genres": list}
        if not isinstance(document, dict):
            raise InputError(f"{where} holds no parameters")
        for name, value in document.items():
            if not isinstance(value, kinds.get(name, ())):
                raise InputError(f"{where} has a parameter that this version cannot read: {name} {value!r}")
        genres = parse_genres(",".join(map(str, document.get("genres", GENRES))))
        return cls(**{**document, "genres": tuple(genres)})

    def command(self, output_dir: Path) -> str:
        """The command that makes a data folder with these parameters, quoted for a shell."""
        words = ["python", "data_loader.py", "--output-dir", str(output_dir)]
        for name, value in asdict(self).items():
            default = getattr(type(self), name)
            if value == default or (name == "train_per_genre" and value is None):
                continue
            text = ",".join(value) if name == "genres" else "all" if value is None else str(value)
            option = "--test-from" if name == "test_split" else _option(name)
            words += [option] if value is True else [option, "FOLDER" if name == "test_split" else text]
        return shlex.join(words)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


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


class Reservoir:
    """A uniform sample without replacement of ``size`` lines of a stream of any length, in random order.

    Algorithm L of K.-H. Li, "Reservoir-sampling algorithms of time complexity O(n(1+log(N/n)))", ACM
    Transactions on Mathematical Software 20 (1994): it draws how many lines to skip, so that of 2 million
    lines fewer than 10,000 are looked at for a sample of 1,000.

    Attributes:
        next: index of the next line that it wants.
    """

    def __init__(self, size: int, seed: str) -> None:
        self._size, self._rng = size, random.Random(seed)
        self._slots: list[tuple[int, bytes]] = []
        self._log_w = 0.0
        self.next = 0

    def take(self, line: bytes) -> None:
        """Put the line at ``next`` into a free slot, or in place of a random one."""
        if len(self._slots) < self._size:
            self._slots.append((self.next, line))
        else:
            self._slots[self._rng.randrange(self._size)] = (self.next, line)
        self.next += 1 if len(self._slots) < self._size else self._skip()

    def _skip(self) -> int:
        # 1 - random() is never 0, which has no logarithm
        self._log_w += math.log(1 - self._rng.random()) / self._size
        beyond = math.log1p(-math.exp(self._log_w))
        return 1 + math.floor(math.log(1 - self._rng.random()) / beyond) if beyond else MOST

    def kept(self) -> dict[int, bytes]:
        """The sampled lines by index, in random order: a slot says when a line came, the split must not."""
        order = self._slots.copy()
        self._rng.shuffle(order)
        return dict(order)


@dataclass
class Sample:
    """What was read of one genre.

    Attributes:
        read: the genre's entry in the manifest.
        reviews: the sampled reviews in draw order; None where the line was bad and is tolerated.
    """

    read: dict[str, Any]
    reviews: list[Review | None]


def sample_genres(parameters: Parameters, limits: Limits) -> dict[str, Sample]:
    """Stream all genres at once and keep the sampled reviews, in draw order.

    Raises:
        InputError: as ``ReviewFile.lines``, a sampled line is not a review, or a genre has too few reviews.
    """
    source, size = Source(parameters.source, limits), parameters.per_genre or 0
    if parameters.head is None:
        return read_genres(source, parameters.genres, partial(_sample_whole, parameters))
    counts = dict.fromkeys(parameters.genres, parameters.head)
    samples: dict[str, Sample] = {}
    drawn: dict[str, list[int]] = {}
    # a file that ends before --head changes what is drawn from it and from the genres after it: those are
    # read a second time, now with the counts known
    while drawn != (wanted := draw_indices(counts, size, parameters.seed)):
        stale = [genre for genre in parameters.genres if drawn.get(genre) != wanted[genre]]
        drawn = wanted
        samples |= read_genres(source, stale, partial(_sample_head, parameters, drawn))
        counts = {genre: samples[genre].read["reviews_read"] for genre in parameters.genres}
    return {genre: samples[genre] for genre in parameters.genres}


def _sample_whole(parameters: Parameters, file: ReviewFile) -> Sample:
    reservoir = Reservoir(parameters.per_genre or 0, f"{parameters.seed}/{file.genre}")
    for index, line in enumerate(file.lines()):
        if index == reservoir.next:
            reservoir.take(line)
    return _parsed(file, reservoir.kept(), parameters)


def _sample_head(parameters: Parameters, drawn: Mapping[str, list[int]], file: ReviewFile) -> Sample:
    indices = drawn[file.genre]
    wanted = set(indices)
    kept = {index: line for index, line in enumerate(file.lines(parameters.head)) if index in wanted}
    return _parsed(file, {index: kept[index] for index in indices if index in kept}, parameters)


def _parsed(file: ReviewFile, kept: dict[int, bytes], parameters: Parameters) -> Sample:
    _check_count(file.genre, file.count, parameters)
    parser = TolerantParser(file.name, parameters.max_bad_lines)
    reviews = [parser.parse(line, index) for index, line in kept.items()]
    return Sample(file.manifest_entry(parser.problems), reviews)


def _check_count(genre: str, count: int, parameters: Parameters) -> None:
    if count < (parameters.per_genre or 0) and not parameters.allow_fewer:
        raise InputError(
            f"{genre} has {count:,} reviews, fewer than --per-genre {parameters.per_genre:,}; "
            "lower --per-genre and --train-per-genre, or take what there is with --allow-fewer"
        )
    if count < 2:
        raise InputError(f"{genre} has {count} reviews: too few to split")
    if parameters.head is not None and count < parameters.head:
        log.info("%s: the file ends before --head %s; sampling from %s", genre, parameters.head, count)


def train_and_test(samples: Mapping[str, Sample], parameters: Parameters) -> tuple[list[Row], list[Row]]:
    """The sampled reviews as rows of the train and the test split, genre after genre in sampling order.

    A bad line that is tolerated leaves a gap: it moves no other review to the other split.
    """
    labels = sorted(samples)
    train: list[Row] = []
    test: list[Row] = []
    for genre, sample in samples.items():
        same = {"genre": genre, "label": labels.index(genre)}
        share = (parameters.train_per_genre or 0, parameters.per_genre or 1)
        cut = max(1, len(sample.reviews) * share[0] // share[1])
        for part, reviews in ((train, sample.reviews[:cut]), (test, sample.reviews[cut:])):
            part += [{**review._asdict(), **same} for review in reviews if review is not None]
    return train, test

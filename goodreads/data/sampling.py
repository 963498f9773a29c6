"""What decides a split, which reviews are drawn, and which of the two splits each one joins."""

import math
import random
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from goodreads.common.errors import InputError
from goodreads.data.genres import SAMPLING_ORDER, parse_genres
from goodreads.data.resumable_http import Limits
from goodreads.data.review_files import UCSD, ReviewFile, read_genres
from goodreads.data.review_parser import Review

MOST = 1 << 53  # JSON readers keep whole numbers exact up to here
MOST_DRAWN = 10_000_000  # per genre: more than any file has, and what memory holds
Samples = dict[str, tuple[ReviewFile, list[Review | None]]]  # per genre, in draw order; None: a bad line
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
    genres: tuple[str, ...] = SAMPLING_ORDER
    head: int | None = 10_000
    per_genre: int | None = 1_000
    train_per_genre: int | None = 800
    seed: int = 42
    drop_duplicates: bool = False
    allow_fewer: bool = False
    max_bad_lines: int = 0
    test_split: str = ""

    def __post_init__(self) -> None:
        drawn, train, head = self.per_genre, self.train_per_genre, self.head
        numbers = [n for n in (head, drawn, train, self.seed, self.max_bad_lines) if n is not None]
        plain = (self.seed, self.drop_duplicates, self.allow_fewer) == (42, False, False)
        checks = [
            (all(type(n) is int and 0 <= n < MOST for n in numbers), f"out of range: {numbers}"),
            ("@" not in self.source.partition("://")[2].partition("/")[0],
             "--source holds a user name, which would be published; put it into ~/.netrc"),
            ((drawn is None) == (train is None), "--per-genre all goes without --train-per-genre"),
            (drawn or plain, "--seed, --drop-duplicates and --allow-fewer go without --per-genre all"),
            (not drawn or (train or 0) < drawn, f"--train-per-genre {train} leaves {drawn} no test reviews"),
            (not drawn or drawn <= (head or MOST_DRAWN), f"--per-genre {drawn} is more than --head {head}"),
        ]  # fmt: skip
        for right, problem in checks:
            if not right:
                raise InputError(problem)

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
        try:
            return cls(**{**document, "genres": parse_genres(",".join(document["genres"]))})
        except (InputError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{where} has parameters that this version cannot read: {error}") from error

    def command(self, output_dir: Path) -> str:
        """The command that makes a data folder with these parameters, quoted for a shell."""
        words = ["python", "data_loader.py", "--output-dir", str(output_dir)]
        changed = {name: value for name, value in asdict(self).items() if value != getattr(type(self), name)}
        if self.per_genre is None:
            del changed["train_per_genre"], changed["test_split"]
            words += ["--test-from", "FOLDER"]
        for name, value in changed.items():
            text = ",".join(value) if name == "genres" else "all" if value is None else str(value)
            words += ["--" + name.replace("_", "-"), *([] if value is True else [text])]
        return shlex.join(words)


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


def reservoir(lines: Iterable[bytes], size: int, seed: str) -> dict[int, bytes]:
    """A uniform sample without replacement of ``size`` lines of a stream of any length.

    Algorithm L of K.-H. Li, "Reservoir-sampling algorithms of time complexity O(n(1+log(N/n)))", ACM
    Transactions on Mathematical Software 20 (1994): it draws how many lines to skip.

    Returns:
        The lines by index, in random order.
    """
    rng, slots, following, log_w = random.Random(seed), list[tuple[int, bytes]](), 0, 0.0
    for index, line in enumerate(lines):
        if index < following:
            continue
        if len(slots) < size:
            slots.append((index, line))
        else:
            slots[rng.randrange(size)] = (index, line)
        if len(slots) == size:
            # 1 - random() is never 0, which has no logarithm
            log_w += math.log(1 - rng.random()) / size
            beyond = math.log1p(-math.exp(log_w))
            skipped = math.floor(math.log(1 - rng.random()) / beyond) if beyond else MOST
            following = index + 1 + skipped
    rng.shuffle(slots)  # a slot says when a line came, the split must not
    return dict(slots)


def sample_genres(parameters: Parameters, limits: Limits) -> Samples:
    """Stream all genres at once and keep the sampled reviews, in draw order.

    Raises:
        InputError: as ``ReviewFile.lines``, a sampled line is not a review, or a genre has too few reviews.
    """
    genres, size, head = parameters.genres, parameters.per_genre or 0, parameters.head
    if head is None:
        return read_genres(parameters.source, limits, genres, partial(_sample, parameters, None))
    counts = dict.fromkeys(genres, head)
    samples: Samples = {}
    drawn: dict[str, list[int]] = {}
    # a file that ends before --head changes what is drawn from it and from the genres after it: those are
    # read a second time, now with the counts known
    while drawn != (wanted := draw_indices(counts, size, parameters.seed)):
        stale = [genre for genre in genres if drawn.get(genre) != wanted[genre]]
        drawn = wanted
        samples |= read_genres(parameters.source, limits, stale, partial(_sample, parameters, drawn))
        counts = {genre: samples[genre][0].count for genre in genres}
    return {genre: samples[genre] for genre in genres}


def _sample(
    parameters: Parameters, drawn: Mapping[str, list[int]] | None, file: ReviewFile
) -> list[Review | None]:
    """Read one genre and keep the lines ``drawn``, or draw from the whole file if that is None."""
    lines, size = file.lines(parameters.head), parameters.per_genre or 0
    if drawn is None:
        kept = reservoir(lines, size, f"{parameters.seed}/{file.genre}")
    else:
        wanted = set(drawn[file.genre])
        found = {index: line for index, line in enumerate(lines) if index in wanted}
        kept = {index: found[index] for index in drawn[file.genre] if index in found}
    least = 2 if parameters.allow_fewer else max(2, size)
    if file.count < least:
        raise InputError(
            f"{file.genre} has {file.count:,} reviews, fewer than {least:,}; lower --per-genre and "
            "--train-per-genre, or take what there is with --allow-fewer"
        )
    return list(file.reviews(kept.items(), parameters.max_bad_lines))


def train_and_test(samples: Samples, parameters: Parameters) -> tuple[list[Row], list[Row]]:
    """The sampled reviews as rows of the train and the test split, genre after genre in sampling order.

    A bad line that is tolerated leaves a gap: it moves no other review to the other split.
    """
    labels = sorted(samples)
    train: list[Row] = []
    test: list[Row] = []
    for genre, (_, reviews) in samples.items():
        same = {"genre": genre, "label": labels.index(genre)}
        cut = max(1, len(reviews) * (parameters.train_per_genre or 0) // (parameters.per_genre or 1))
        train += [{**review._asdict(), **same} for review in reviews[:cut] if review]
        test += [{**review._asdict(), **same} for review in reviews[cut:] if review]
    return train, test

"""What decides a split, which reviews are drawn, and which of the two splits each one joins."""

import math
import random
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Self

from goodreads.common.errors import InputError
from goodreads.data.genres import SAMPLING_ORDER, parse_genres
from goodreads.data.review_files import UCSD, ReviewFile, read_genres
from goodreads.data.review_parser import Review

MOST = 1 << 53  # JSON readers keep whole numbers exact up to here
MOST_DRAWN = 10_000_000  # per genre: more than any file has, and what memory holds
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
        changed = (self.seed, self.drop_duplicates, self.allow_fewer) != (42, False, False)
        host = self.source.partition("://")[2].partition("/")[0]
        for wrong, problem in (
            (not all(type(n) is int and 0 <= n < MOST for n in numbers), f"out of range: {numbers}"),
            ("@" in host, "--source holds a user name, which would be published: put it into ~/.netrc"),
            ((drawn is None) != (train is None), "--per-genre all goes without --train-per-genre"),
            (not drawn and changed, "--seed, --drop-duplicates and --allow-fewer go without --per-genre all"),
            (drawn and (train or 0) >= drawn, f"--train-per-genre {train} leaves {drawn} no test reviews"),
            (drawn and drawn > (head or MOST_DRAWN), f"--per-genre {drawn} is more than --head {head}"),
        ):
            if wrong:
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


def reservoir(lines: Iterable[bytes], size: int, seed: str) -> list[tuple[int, bytes]]:
    """A uniform sample without replacement of ``size`` lines of a stream of any length.

    Algorithm L of K.-H. Li, "Reservoir-sampling algorithms of time complexity O(n(1+log(N/n)))", ACM
    Transactions on Mathematical Software 20 (1994): it draws how many lines to skip.

    Returns:
        The lines and their indices, in random order.
    """
    rng, numbered, log_w = random.Random(seed), enumerate(lines), 0.0
    slots = list(islice(numbered, size))
    while len(slots) == size:
        # 1 - random() is never 0, which has no logarithm
        log_w += math.log(1 - rng.random()) / size
        beyond = math.log1p(-math.exp(log_w))
        skipped = math.floor(math.log(1 - rng.random()) / beyond) if beyond else MOST
        replacement = next(islice(numbered, min(skipped, MOST), None), None)
        if replacement is None:
            break
        slots[rng.randrange(size)] = replacement
    rng.shuffle(slots)  # a slot says when a line came, the split must not
    return slots


def sample_split(parameters: Parameters) -> tuple[dict[str, Any], list[Row], list[Row]]:
    """Stream all genres at once, then draw as the reference does: one generator samples each genre in turn.

    Returns:
        What the manifest says of the files read, and the rows of the train and of the test split: genre
        after genre in sampling order, each in the order drawn.

    Raises:
        InputError: as ``ReviewFile.lines``, a sampled line is not a review, or a genre has too few reviews.
    """
    rng, size, read = random.Random(parameters.seed), parameters.per_genre or 0, dict[str, Any]()
    train, test = list[Row](), list[Row]()
    work = partial(_lines_to_draw_from, parameters)
    for genre, (file, lines) in read_genres(parameters.source, parameters.genres, work).items():
        drawn = lines if parameters.head is None else rng.sample(lines, min(size, len(lines)))
        reviews = list(file.reviews(drawn, parameters.max_bad_lines))
        cut = max(1, len(reviews) * (parameters.train_per_genre or 0) // size)
        # a bad line that is tolerated leaves a gap: it moves no other review to the other split
        train += rows_of(parameters, genre, reviews[:cut])
        test += rows_of(parameters, genre, reviews[cut:])
        read[genre] = file.manifest_entry()
    return read, train, test


def rows_of(parameters: Parameters, genre: str, reviews: Iterable[Review | None]) -> Iterator[Row]:
    """The rows of a genre's reviews; None, a bad line, has none."""
    same = {"genre": genre, "label": sorted(parameters.genres).index(genre)}
    return (review._asdict() | same for review in reviews if review)


def _lines_to_draw_from(parameters: Parameters, file: ReviewFile) -> list[tuple[int, bytes]]:
    """The first ``head`` lines of a genre with their indices; of a whole file a sample, as it may be long."""
    size, lines = parameters.per_genre or 0, file.lines(parameters.head)
    if parameters.head is None:
        kept = reservoir(lines, size, f"{parameters.seed}/{file.genre}")
    else:
        kept = list(enumerate(lines))
    least = 2 if parameters.allow_fewer else max(2, size)
    if file.count < least:
        advice = "lower --per-genre and --train-per-genre, or take what there is with --allow-fewer"
        raise InputError(f"{file.genre} has {file.count:,} reviews, fewer than {least:,}; {advice}")
    return kept

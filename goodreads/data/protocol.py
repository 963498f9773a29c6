"""The sampling protocol: what decides a split, which reviews it draws, and which rows they become."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from goodreads.common.errors import InputError
from goodreads.common.progress import Progress, log
from goodreads.data.data_report import Row
from goodreads.data.genres import GENRES, parse_genres
from goodreads.data.reading import BadLines, Sampled, each_genre, sample_lines
from goodreads.data.review_files import UCSD, Source, Stream
from goodreads.data.review_parser import Review
from goodreads.data.sampling import Chosen, Reservoir, Sampler, draw_indices


@dataclass(frozen=True)
class Parameters:
    """What decides the split; equal parameters on an equal source give an equal split.

    Attributes:
        source: base URL, folder or ``sample``.
        genres: slugs in sampling order.
        head, per_genre, train_per_genre: reviews per genre read, sampled, and put into the train split. None
            means all: of ``head`` the whole file, of the other two (together) all that is not held out.
        seed: of the one generator that samples every genre in turn.
        drop_duplicates: drop train reviews whose text or id also stands in the test split.
        allow_fewer: accept a genre with fewer than ``per_genre`` reviews.
        max_bad_lines: lines of a genre that may be no reviews; they are left out.
        test_split: ``content_sha256`` of the test split that is held out where ``per_genre`` is None.

    Raises:
        InputError: they contradict each other.
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
        if self.per_genre is None or self.train_per_genre is None:
            if self.per_genre != self.train_per_genre or not self.test_split:
                raise InputError("--per-genre all goes without --train-per-genre and needs --test-from")
        elif self.train_per_genre >= self.per_genre:
            raise InputError(
                f"--train-per-genre {self.train_per_genre} leaves no test reviews of {self.per_genre}"
            )
        elif self.head is not None and self.per_genre > self.head:
            raise InputError(f"--per-genre {self.per_genre} is more than --head {self.head}")

    def as_json(self) -> dict[str, Any]:
        """As they stand in the manifest."""
        return {**asdict(self), "genres": list(self.genres)}


def sample_genres(parameters: Parameters, source: Source) -> dict[str, Sampled]:
    """Stream all genres at once and keep the sampled reviews, in draw order.

    Raises:
        InputError: as ``goodreads.data.reading.sample_lines``, or a genre has fewer reviews than asked.
    """
    if parameters.head is None:
        seeds = {genre: f"{parameters.seed}/{genre}" for genre in parameters.genres}
        size = parameters.per_genre or 0
        read = _read(parameters, source, {g: Reservoir(size, seed) for g, seed in seeds.items()})
        for genre in parameters.genres:
            _check_count(genre, read[genre].lines, parameters)
        return read
    return _sample_heads(parameters, source, parameters.head, parameters.per_genre or 0)


def _sample_heads(parameters: Parameters, source: Source, head: int, per_genre: int) -> dict[str, Sampled]:
    """The reference's draw from the first ``head`` reviews of each genre.

    A file that ends before ``head`` changes what is drawn from it and from the genres after it; those are
    then read a second time, now with the counts known.
    """
    counts = dict.fromkeys(parameters.genres, head)
    drawn: dict[str, list[int]] = {}
    read: dict[str, Sampled] = {}
    while drawn != (wanted := draw_indices(counts, per_genre, parameters.seed)):
        stale = [genre for genre in parameters.genres if drawn.get(genre) != wanted[genre]]
        read.update(_read(parameters, source, {genre: Chosen(wanted[genre]) for genre in stale}))
        drawn = wanted
        for genre in stale:
            _check_count(genre, read[genre].lines, parameters)
            counts[genre] = read[genre].lines
    return {genre: read[genre] for genre in parameters.genres}


def _read(parameters: Parameters, source: Source, samplers: Mapping[str, Sampler]) -> dict[str, Sampled]:
    def work(genre: str, stream: Stream, progress: Progress) -> Sampled:
        bad = BadLines(parameters.max_bad_lines)
        return sample_lines(stream, parameters.head, samplers[genre], bad, progress)

    return each_genre(dict.fromkeys(samplers, parameters.head), source, work)


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


def split(samples: Mapping[str, Sampled], parameters: Parameters) -> tuple[list[Row], list[Row]]:
    """The sampled reviews as rows of the train and the test split, genre after genre in sampling order.

    A bad line that is tolerated leaves a gap: it moves no other review to the other split.
    """
    labels = sorted(samples)
    train: list[Row] = []
    test: list[Row] = []
    for genre, sample in samples.items():
        share = (parameters.train_per_genre or 0, parameters.per_genre or 1)
        cut = max(1, len(sample.reviews) * share[0] // share[1])
        for part, reviews in ((train, sample.reviews[:cut]), (test, sample.reviews[cut:])):
            part += [_row(review, genre, labels.index(genre)) for review in reviews if review is not None]
    return train, test


def _row(review: Review, genre: str, label: int) -> Row:
    return {
        "review_id": review["review_id"],
        "book_id": review["book_id"],
        "user_id": review["user_id"],
        "genre": genre,
        "label": label,
        "text": review["review_text"],
        "rating": review["rating"],
    }

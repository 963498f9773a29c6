"""All reviews of a genre that the test split does not hold, as Parquet shards that ``datasets`` streams."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.common.errors import InputError
from goodreads.data.review_files import ReviewFile
from goodreads.data.review_parser import Review, TolerantParser
from goodreads.data.split_store import SCHEMA, SHORT_WORDS, Entry, Split, file_entry

SHARD_ROWS = 100_000  # a shard ends with the row group that reaches this
GROUP_ROWS = 2_048  # rows held in memory, and of one Parquet row group


class HeldOut:
    """What must not stand in the training data: the ids of a test split and its texts, no blank ones."""

    def __init__(self, test: Split) -> None:
        self.review_ids = frozenset(test.review_ids)
        self.texts = frozenset(text for text in test.texts if text.strip())


@dataclass
class Corpus:
    """One genre's shards.

    Attributes:
        lines, bytes: lines and compressed bytes read.
        files: name -> rows, bytes and SHA-256 of each shard, in order.
        bad_lines: messages on the lines that are no reviews.
        train: reviews written.
        empty_texts, very_short_texts: how many of those.
        held_out_by_review_id, held_out_by_text: reviews that were left out.
    """

    lines: int = 0
    bytes: int = 0
    files: dict[str, Entry] = field(default_factory=dict)
    bad_lines: list[str] = field(default_factory=list)
    train: int = 0
    empty_texts: int = 0
    very_short_texts: int = 0
    held_out_by_review_id: int = 0
    held_out_by_text: int = 0


REPORTED = ("empty_texts", "very_short_texts", "held_out_by_review_id", "held_out_by_text")


def write_corpus(
    file: ReviewFile, limit: int | None, held_out: HeldOut, tolerated: int, label: int, folder: Path
) -> Corpus:
    """Read a genre's first ``limit`` reviews (None: all) and write those that are not held out.

    Args:
        file, limit: what to read.
        held_out: the test split's reviews.
        tolerated: lines that may be no reviews.
        label: of the genre.
        folder: for ``<genre>-00000.parquet`` and on.

    Raises:
        InputError: as ``ReviewFile.lines``; a line is not a review; or no review is left.
    """
    corpus = Corpus()
    parser = TolerantParser(file.name, tolerated)
    reviews = _kept(file.lines(limit), parser, held_out, corpus)
    groups = iter(lambda: list(islice(reviews, GROUP_ROWS)), [])
    for group in groups:
        path = folder / f"{file.genre}-{len(corpus.files):05d}.parquet"
        with (
            path.open("wb") as target,
            pq.ParquetWriter(target, SCHEMA, compression="zstd", use_dictionary=["genre"]) as writer,
        ):
            rows = 0
            while group:
                columns = dict(zip(Review._fields, map(list, zip(*group)), strict=True))
                same = {"genre": [file.genre] * len(group), "label": [label] * len(group)}
                writer.write_table(pa.table(columns | same, schema=SCHEMA))
                rows += len(group)
                group = next(groups, []) if rows < SHARD_ROWS else []
        corpus.files[f"train/{path.name}"] = file_entry(path, rows)
        corpus.train += rows
    if not corpus.train:
        raise InputError(f"{file.name} has no review outside the test split")
    corpus.lines, corpus.bytes, corpus.bad_lines = file.count, file.bytes_read, parser.problems
    return corpus


def _kept(
    lines: Iterator[bytes], parser: TolerantParser, held_out: HeldOut, corpus: Corpus
) -> Iterator[Review]:
    """The reviews that are not held out; what was seen is counted in ``corpus``."""
    for index, line in enumerate(lines):
        review = parser.parse(line, index)
        if review is None:
            continue
        if review.review_id in held_out.review_ids:
            corpus.held_out_by_review_id += 1
        elif review.text in held_out.texts:
            corpus.held_out_by_text += 1
        else:
            words = len(review.text.split(None, SHORT_WORDS - 1))
            corpus.empty_texts += words == 0
            corpus.very_short_texts += 0 < words < SHORT_WORDS
            yield review

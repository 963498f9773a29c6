"""All reviews of a genre that the test split does not hold, as Parquet shards that ``datasets`` streams."""

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.common.errors import InputError
from goodreads.data.review_files import ReviewFile
from goodreads.data.review_parser import Review, TolerantParser
from goodreads.data.split_store import SCHEMA, SHORT_WORDS, Entry, file_entry

SHARD_ROWS = 100_000  # a shard ends with the row group that reaches this
GROUP_ROWS = 2_048  # rows held in memory, and of one Parquet row group


@dataclass
class Corpus:
    """One genre's shards.

    Attributes:
        read: the genre's entry in the manifest.
        files: name -> rows, bytes and SHA-256 of each shard, in order.
        counts: reviews written (``train``), how many of those are ``empty_texts`` and ``very_short_texts``,
            and reviews ``held_out_by_review_id`` and ``held_out_by_text``.
    """

    read: dict[str, Any]
    files: dict[str, Entry]
    counts: Counter[str]


def write_corpus(
    file: ReviewFile, limit: int | None, held_out: tuple[Set[str], Set[str]], tolerated: int, label: int,
    folder: Path,
) -> Corpus:  # fmt: skip
    """Read a genre's first ``limit`` reviews (None: all) and write those that are not held out.

    Args:
        file, limit: what to read.
        held_out: review_ids and texts that must not stand in the training data.
        tolerated: lines that may be no reviews.
        label: of the genre.
        folder: for ``<genre>-00000.parquet`` and on.

    Raises:
        InputError: as ``ReviewFile.lines``; a line is not a review; or no review is left.
    """
    counts, files, parser = Counter[str](), dict[str, Entry](), TolerantParser(file.name, tolerated)
    reviews = _kept(file.lines(limit), parser, held_out, counts)
    groups = iter(lambda: list(islice(reviews, GROUP_ROWS)), [])
    for group in groups:
        path, rows = folder / f"{file.genre}-{len(files):05d}.parquet", 0
        with (
            path.open("wb") as target,
            pq.ParquetWriter(target, SCHEMA, compression="zstd", use_dictionary=["genre"]) as writer,
        ):
            while group:
                columns = dict(zip(Review._fields, map(list, zip(*group)), strict=True))
                same = {"genre": [file.genre] * len(group), "label": [label] * len(group)}
                writer.write_table(pa.table(columns | same, schema=SCHEMA))
                rows += len(group)
                group = next(groups, []) if rows < SHARD_ROWS else []
        files[f"train/{path.name}"] = file_entry(path, rows)
    if not files:
        raise InputError(f"{file.name} has no review outside the test split")
    return Corpus(file.manifest_entry(parser.problems), files, counts)


def _kept(
    lines: Iterable[bytes], parser: TolerantParser, held_out: tuple[Set[str], Set[str]], counts: Counter[str]
) -> Iterator[Review]:
    """The reviews that are not held out; what becomes of each is counted."""
    review_ids, texts = held_out
    for index, line in enumerate(lines):
        if (review := parser.parse(line, index)) is None:
            continue
        if review.review_id in review_ids:
            counts["held_out_by_review_id"] += 1
        elif review.text in texts:
            counts["held_out_by_text"] += 1
        else:
            counts["train"] += 1
            if (words := len(review.text.split(None, SHORT_WORDS - 1))) < SHORT_WORDS:
                counts["very_short_texts" if words else "empty_texts"] += 1
            yield review

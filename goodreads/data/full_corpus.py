"""All reviews of a genre that the test split does not hold, as Parquet shards that ``datasets`` streams."""

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.common.errors import InputError
from goodreads.data.review_files import ReviewFile
from goodreads.data.review_parser import Review
from goodreads.data.sampling import Parameters
from goodreads.data.split_store import SCHEMA, Entry, file_entry

GROUP_ROWS = 2_048  # rows held in memory, and of one Parquet row group
SHARD_GROUPS = 49  # row groups of a shard: about 100,000 rows


def write_corpus(
    parameters: Parameters, held_out: tuple[Set[str], Set[str]], folder: Path, file: ReviewFile
) -> tuple[dict[str, Entry], Counter[str]]:
    """Read one genre and write its reviews that are not held out.

    Args:
        parameters: of the split.
        held_out: review_ids and texts that must not stand in the training data.
        folder: for ``train/<genre>-00000.parquet`` and on.
        file: what to read.

    Returns:
        The manifest's entry of each shard by name; and counts: reviews written (``train``), how many of those
        are ``empty_texts``, and reviews ``held_out_by_review_id`` and ``held_out_by_text``.

    Raises:
        InputError: as ``ReviewFile.lines``; a line is not a review; or no review is left.
    """
    counts, files = Counter[str](), dict[str, Entry]()
    lines = enumerate(file.lines(parameters.head))
    reviews = _kept(file.reviews(lines, parameters.max_bad_lines), held_out, counts)
    label = sorted(parameters.genres).index(file.genre)
    same = {"genre": file.genre, "label": label}
    groups = iter(lambda: [review._asdict() | same for review in islice(reviews, GROUP_ROWS)], [])
    for first in groups:
        name, rows = f"train/{file.genre}-{len(files):05d}.parquet", 0
        with (
            (folder / name).open("wb") as target,
            pq.ParquetWriter(target, SCHEMA, compression="zstd", use_dictionary=["genre"]) as writer,
        ):
            for group in chain([first], islice(groups, SHARD_GROUPS - 1)):
                writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
                rows += len(group)
        files[name] = file_entry(folder / name, rows)
    if not files:
        raise InputError(f"{file.name} has no review outside the test split")
    return files, counts


def _kept(
    reviews: Iterable[Review | None], held_out: tuple[Set[str], Set[str]], counts: Counter[str]
) -> Iterator[Review]:
    """The reviews that are not held out; what becomes of each is counted."""
    review_ids, texts = held_out
    for review in filter(None, reviews):
        if review.review_id in review_ids:
            counts["held_out_by_review_id"] += 1
        elif review.text in texts:
            counts["held_out_by_text"] += 1
        else:
            counts["train"] += 1
            counts["empty_texts"] += not review.text.strip()
            yield review

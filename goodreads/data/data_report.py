"""What a careful reader would ask about a split before trusting a figure made with it."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from goodreads.common.progress import log

SHORT_WORDS = 3  # a text with fewer words is reported as very short

Row = dict[str, Any]  # one row of a split, with the columns of goodreads.data.split_store.SCHEMA


def data_report(train: Sequence[Row], test: Sequence[Row]) -> dict[str, Any]:
    """What a careful reader would ask about the data; every figure counts reviews unless it says otherwise.

    Duplicates are exact and leave empty texts out, which have a count of their own.
    """
    rows = [*train, *test]
    texts = Counter(row["text"] for row in rows if row["text"].strip())
    leaked = [row["review_id"] for row in _leaked(train, test)]
    return {
        "empty_texts": sum(not row["text"].strip() for row in rows),
        "very_short_texts": sum(0 < len(row["text"].split()) < SHORT_WORDS for row in rows),
        "very_short_means_fewer_words_than": SHORT_WORDS,
        "exact_duplicate_texts": sum(n for n in texts.values() if n > 1),
        "review_ids_in_several_genres": _in_several_genres(rows, "review_id"),
        "book_ids_in_several_genres": _in_several_genres(rows, "book_id"),
        "book_ids_in_train_and_test": len({r["book_id"] for r in train} & {r["book_id"] for r in test}),
        "train_reviews_also_in_test": len(leaked),
        "train_review_ids_also_in_test": leaked,
    }


def _in_several_genres(rows: Sequence[Row], column: str) -> int:
    pairs = {(row[column], row["genre"]) for row in rows}
    return sum(n > 1 for n in Counter(value for value, _ in pairs).values())


def _leaked(train: Sequence[Row], test: Sequence[Row]) -> list[Row]:
    ids = {row["review_id"] for row in test}
    texts = {row["text"] for row in test if row["text"].strip()}
    return [row for row in train if row["review_id"] in ids or row["text"] in texts]


def drop_leaked(train: list[Row], test: Sequence[Row]) -> list[str]:
    """Take the train reviews that also stand in the test split out of ``train``; the test split stays.

    Returns:
        The review_ids removed.
    """
    leaked = _leaked(train, test)
    gone = {id(row) for row in leaked}
    train[:] = [row for row in train if id(row) not in gone]
    log.info("--drop-duplicates: removed %d train reviews that also stand in the test split", len(leaked))
    return [row["review_id"] for row in leaked]

"""A line of the UCSD files to the fields that are used of it."""

import json
from typing import Any

# orjson reads a review 3 times as fast as json (benchmarks/loading.py); what it refuses, json judges
import orjson

from goodreads.common.errors import InputError

FIELDS = ("review_id", "book_id", "user_id", "review_text", "rating")
Review = dict[str, Any]  # the values of FIELDS: four strings and an int


class BadLine(InputError):
    """A line that is not a review; the message says which and why."""


def parse_review(line: bytes, name: str, index: int) -> Review:
    """One JSON line to its ``FIELDS``.

    Args:
        line: the line's bytes, UTF-8.
        name: the file, for the error.
        index: of the line in the file, from 0; the error counts from 1.

    Raises:
        BadLine: it is not a JSON object in UTF-8 with the fields in their types.
    """
    try:
        return _fields(orjson.loads(line))
    except (ValueError, TypeError, KeyError):
        return _judge(line, f"{name}, line {index + 1:,}")


def _fields(record: Any) -> Review:
    review_id, book_id, user_id = record["review_id"], record["book_id"], record["user_id"]
    text, rating = record["review_text"], record["rating"]
    if not (
        type(text) is type(review_id) is type(book_id) is type(user_id) is str
        and type(rating) is int
        and -(1 << 63) <= rating < 1 << 63
    ):
        raise TypeError
    return {
        "review_id": review_id, "book_id": book_id, "user_id": user_id, "review_text": text, "rating": rating,
    }  # fmt: skip


def _judge(line: bytes, place: str) -> Review:
    """What is wrong with a line that orjson refused, or what json reads where orjson is the stricter."""
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise BadLine(
            f"{place} is not UTF-8 (byte {error.start + 1:,} of the line); the source is damaged"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadLine(f"{place} is not JSON ({error}); the source is damaged") from error
    if not isinstance(record, dict):
        raise BadLine(f"{place} is not a JSON object; the source is not in the UCSD format")
    values = {name: record.get(name) for name in FIELDS}
    for name, value in values.items():
        kind = int if name == "rating" else str
        if type(value) is not kind or (type(value) is int and abs(value) >= 1 << 63):
            raise BadLine(f"{place} has no {name} of type {kind.__name__}; not in the UCSD format")
        if isinstance(value, str):
            values[name] = _well_formed(value)
    return values


def _well_formed(text: str) -> str:
    """JSON may escape half a surrogate pair, which no UTF-8 file can hold: U+FFFD stands for it."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

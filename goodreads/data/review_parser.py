"""One line of a UCSD file to one review."""

import json
from typing import Any, NamedTuple

import orjson  # three times as fast as json

from goodreads.common.errors import InputError

KINDS: dict[str, Any] = {"review_id": str, "book_id": str, "user_id": str, "review_text": str, "rating": int}


class Review(NamedTuple):
    """The fields that are used of a record."""

    review_id: str
    book_id: str
    user_id: str
    text: str
    rating: int


def parse_review(line: bytes, name: str, index: int) -> Review:
    """Parse one JSON line.

    Args:
        line: the line's bytes, UTF-8.
        name: the file, for the error.
        index: of the line in the file, from 0; the error counts from 1.

    Raises:
        InputError: it is not a JSON object in UTF-8 with the fields in their types.
    """
    where = f"{name}, line {index + 1:,}"
    try:
        record = _decode(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON in UTF-8 ({error}); the source is damaged") from error
    fields: dict[str, Any] = record if isinstance(record, dict) else {}
    for key, kind in KINDS.items():
        value: Any = fields.get(key)
        # a number of more than 64 bits has no place in the Parquet file
        if type(value) is not kind or (kind is int and not -(1 << 63) <= value < 1 << 63):
            raise InputError(f"{where} has no {key} of type {kind.__name__}; not in the UCSD format")
    return Review(*(fields[key] for key in KINDS))


def _decode(line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except ValueError:
        # json accepts half a surrogate pair, which no UTF-8 file can hold: it becomes U+FFFD
        text = json.dumps(json.loads(line), ensure_ascii=False)
        return json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

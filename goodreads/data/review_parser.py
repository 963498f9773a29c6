"""One line of a UCSD file to one review."""

import json
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson  # three times as fast as json

from goodreads.common.errors import InputError
from goodreads.common.progress import log

KINDS: dict[str, Any] = {"review_id": str, "book_id": str, "user_id": str, "review_text": str, "rating": int}
KIND_LIST = [*KINDS.values()]


class Review(NamedTuple):
    """The fields that are used of a record."""

    review_id: str
    book_id: str
    user_id: str
    text: str
    rating: int


class BadLine(InputError):
    """A line that is not a review; the message says which and why."""


def parse_review(line: bytes, name: str, index: int) -> Review:
    """Parse one JSON line.

    Args:
        line: the line's bytes, UTF-8.
        name: the file, for the error.
        index: of the line in the file, from 0; the error counts from 1.

    Raises:
        BadLine: it is not a JSON object in UTF-8 with the fields in their types.
    """
    try:
        record, strict = orjson.loads(line), True
    except ValueError:
        record, strict = _decode(line, name, index), False
    if not isinstance(record, dict):
        raise BadLine(
            f"{name}, line {index + 1:,} is not a JSON object; the source is not in the UCSD format"
        )
    values: list[Any] = [record.get(key) for key in KINDS]
    # a number of more than 64 bits has no place in the Parquet file
    if [*map(type, values)] != KIND_LIST or not -(1 << 63) <= values[-1] < 1 << 63:
        key = next((key for key, value in zip(KINDS, values) if type(value) is not KINDS[key]), "rating")
        kind = KINDS[key].__name__
        raise BadLine(f"{name}, line {index + 1:,} has no {key} of type {kind}; not in the UCSD format")
    if not strict:
        values = [_well_formed(value) if isinstance(value, str) else value for value in values]
    return Review(*values)


def _decode(line: bytes, name: str, index: int) -> Any:
    """Decode with the standard library, which accepts half a surrogate pair and says what is wrong."""
    try:
        return json.loads(line)
    except UnicodeDecodeError as error:
        reason = f"UTF-8 (byte {error.start + 1:,} of the line)"
    except (ValueError, RecursionError) as error:
        reason = f"JSON ({error})"
    raise BadLine(f"{name}, line {index + 1:,} is not {reason}; the source is damaged")


def _well_formed(text: str) -> str:
    """Replace half a surrogate pair, which no UTF-8 file can hold, by U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass
class TolerantParser:
    """Parses the lines of one file and leaves out some bad ones.

    Attributes:
        name: the file, for messages.
        tolerated: how many bad lines are left out; one more is an error.
        problems: a message for each bad line.
    """

    name: str
    tolerated: int = 0
    problems: list[str] = field(default_factory=list)

    def parse(self, line: bytes, index: int) -> Review | None:
        """The review on line ``index``, or None for a bad line; raises BadLine for one too many."""
        try:
            return parse_review(line, self.name, index)
        except BadLine as error:
            self.problems.append(str(error))
            if len(self.problems) <= self.tolerated:
                log.warning("left out: %s", error)
                return None
            advice = "--max-bad-lines leaves a few out"
            if self.tolerated:
                advice = f"it is bad line {len(self.problems)} of this file"
            raise BadLine(f"{error}; {advice}") from error

import json

import pytest

from goodreads.common.errors import InputError
from goodreads.data.review_parser import Review, parse_review
from tests.data.reviews import RECORD

REVIEW = Review(*RECORD.values())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "fragment"),
    [
        (b"", "is not JSON"),
        (b'{"review_id": "\xff"}', "is not JSON in UTF-8 .*byte 0xff in position 15"),
        (b"[]", "no review_id of type str"),
        (b"NaN", "no review_id of type str"),
        *((json.dumps(RECORD | {key: bad}).encode(), f"no {key} of type {kind}") for key, bad, kind in (
            ("review_text", None, "str"), ("review_id", 7, "str"), ("book_id", ["b"], "str"),
            ("user_id", None, "str"), ("rating", "3", "int"), ("rating", float("nan"), "int"),
        )),
        *((json.dumps({k: RECORD[k] for k in RECORD if k != key}).encode(), f"no {key}") for key in RECORD),
        *((json.dumps(RECORD | {"rating": bad}).encode(), "no rating") for bad in (True, 10**30, 1 << 63)),
        pytest.param(b"[" * 100_000, "is not JSON", id="deeply nested"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named_by_its_number(line: bytes, fragment: str) -> None:
    with pytest.raises(InputError, match=rf"^w, line 1,235 .*{fragment}"):
        parse_review(line, "w", 1234)


@pytest.mark.parametrize(
    ("escaped", "text"),
    [(r"a \ud83d b", "a \ufffd b"), (r"\ud83d\ude00", "😀"), (r"é \u0000 \u2028", "é \0 \u2028")],
)
def test_half_surrogates_and_a_byte_order_mark_are_replaced_and_all_else_is_kept(
    escaped: str, text: str
) -> None:
    line = json.dumps(RECORD | {"extra": 1}).replace('"t"', f'"{escaped}"') + "\r\n"
    for encoding in ("utf-8", "utf-8-sig"):
        assert parse_review(line.encode(encoding), "w", 0) == REVIEW._replace(text=text)

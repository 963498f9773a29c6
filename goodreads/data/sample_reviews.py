"""Generated reviews in the UCSD format: the stand-in that ``--source sample`` reads.

Each review is a few template sentences whose words come from its own genre, from a genre that readers
confuse with it, or from a list that all share, so that a classifier has something to learn and something
to get wrong. The figures of a model trained on them say nothing about real reviews.

A genre's reviews depend on the genre and on ``CORPUS_SEED`` alone; the first n are the same whatever
number is asked for.
"""

import hashlib
import json
import random
import zlib
from pathlib import Path

from goodreads.data.genres import GENRES

CORPUS_SEED = 2018
MOST_REVIEWS = 100_000  # per genre when streamed
OWN_SHARE, RIVAL_SHARE = 0.18, 0.12  # of a sentence's words; the rest are shared ones

WORDS = json.loads(Path(__file__).with_name("sample_words.json").read_text(encoding="utf-8"))


def review(genre: str, number: int) -> dict[str, object]:
    """Review ``number`` (from 0) of ``genre``, with the eleven fields of a UCSD record."""
    rng = random.Random(f"{CORPUS_SEED}/{genre}/{number}")
    day, month, year = rng.randint(1, 28), rng.choice(("Jan", "Apr", "Jul", "Oct")), rng.randint(2008, 2017)
    added = f"Mon {month} {day:02d} 10:{rng.randint(0, 59):02d}:00 -0700 {year}"
    # as in the real files, a popular book is shelved under more than one genre
    shelf = genre if rng.random() < 0.9 else WORDS["rivals"][genre]
    return {
        "user_id": _id("user", rng.randint(0, 40_000)),
        "book_id": str(10_000 * (1 + list(GENRES).index(shelf)) + rng.randint(0, 5_000)),
        "review_id": _id(genre, number),
        "rating": rng.choice((2, 3, 3, 4, 4, 5, 5)),
        "review_text": _text(genre, rng),
        "date_added": added,
        "date_updated": added,
        "read_at": "",
        "started_at": "",
        "n_votes": rng.choice((0, 0, 0, 1, 5)),
        "n_comments": 0,
    }


def _text(genre: str, rng: random.Random) -> str:
    if rng.random() < 0.02:
        return str(rng.choice(WORDS["short_reviews"]))
    own, rival = WORDS["own"][genre], WORDS["own"][WORDS["rivals"][genre]]
    sentences = []
    for _ in range(min(60, max(1, round(rng.lognormvariate(1.4, 0.8))))):  # a median of about 60 tokens
        template = rng.choice(WORDS["templates"])
        words = []
        for _ in range(template.count("{}")):
            draw = rng.random()
            pool = own if draw < OWN_SHARE else rival if draw < OWN_SHARE + RIVAL_SHARE else WORDS["shared"]
            words.append(rng.choice(pool))
        sentences.append(template.format(*words))
    return ("\n\n" if rng.random() < 0.1 else " ").join(sentences)


def _id(kind: str, number: int) -> str:
    return hashlib.md5(f"{kind}/{number}".encode(), usedforsecurity=False).hexdigest()


def gzip_file(genre: str, reviews: int) -> bytes:
    """The gzip file ``goodreads_reviews_<genre>.json.gz`` of that many reviews."""
    packer = zlib.compressobj(wbits=31)
    lines = (json.dumps(review(genre, number), ensure_ascii=False) + "\n" for number in range(reviews))
    return b"".join([*(packer.compress(line.encode()) for line in lines), packer.flush()])

import gzip
import hashlib
import json
from pathlib import Path

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from goodreads.data import sample_reviews as sample
from goodreads.data.genres import GENRES
from tests.data.reviews import gz


def test_generated_reviews_are_the_same_on_every_machine() -> None:
    lines = [json.dumps(sample.review("romance", n)) for n in range(100)]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "619a67292566ecc5ed1ebf15ac2231d120cbf5bb6090b038988a9ef33dd43663"


def test_the_first_generated_reviews_are_the_same_for_any_number_of_them(tmp_path: Path) -> None:
    sample.write_files(tmp_path, 7, ["poetry"])
    assert [path.name for path in tmp_path.iterdir()] == [gz("poetry")]
    few = gzip.decompress((tmp_path / gz("poetry")).read_bytes()).splitlines(keepends=True)
    assert few == gzip.decompress(sample.gzip_file("poetry", 40)).splitlines(keepends=True)[:7]


def test_generated_reviews_have_the_fields_of_the_real_ones() -> None:
    kinds = {
        "user_id": str, "book_id": str, "review_id": str, "rating": int, "review_text": str,
        "date_added": str, "date_updated": str, "read_at": str, "started_at": str, "n_votes": int,
        "n_comments": int,
    }  # fmt: skip
    records = [sample.review(genre, number) for genre in GENRES for number in range(50)]
    assert all({name: type(value) for name, value in record.items()} == kinds for record in records)
    assert len({record["review_id"] for record in records}) == len(records)


def test_generated_reviews_can_be_learned_but_not_perfectly() -> None:
    def reviews(numbers: range) -> tuple[list[str], list[str]]:
        rows = [(str(sample.review(genre, n)["review_text"]), genre) for genre in GENRES for n in numbers]
        return [text for text, _ in rows], [genre for _, genre in rows]

    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=200, C=0.1))
    accuracy = model.fit(*reviews(range(200))).score(*reviews(range(200, 300)))
    assert 0.3 < accuracy < 0.9  # chance is 0.125

import gzip
import hashlib
import json

from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from goodreads.data import sample_reviews as sample
from goodreads.data.genres import GENRES


def test_generated_reviews_are_the_same_on_every_machine_and_for_any_number_of_them() -> None:
    lines = [json.dumps(sample.review("romance", n)) for n in range(100)]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "619a67292566ecc5ed1ebf15ac2231d120cbf5bb6090b038988a9ef33dd43663"
    file = gzip.decompress(sample.gzip_file("romance", 40)).splitlines()
    assert [json.loads(line) for line in file] == [json.loads(line) for line in lines[:40]]


def test_generated_reviews_can_be_learned_but_not_perfectly() -> None:
    def reviews(numbers: range) -> tuple[list[str], list[str]]:
        rows = [(str(sample.review(genre, n)["review_text"]), genre) for genre in GENRES for n in numbers]
        return [text for text, _ in rows], [genre for _, genre in rows]

    model = make_pipeline(CountVectorizer(), LogisticRegression(max_iter=200, C=0.1))
    accuracy = model.fit(*reviews(range(200))).score(*reviews(range(200, 300)))
    assert 0.3 < accuracy < 0.9  # chance is 0.125

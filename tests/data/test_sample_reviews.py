import gzip
import hashlib
import json

from goodreads.data import sample_reviews as sample


def test_generated_reviews_are_the_same_on_every_machine_and_for_any_number_of_them() -> None:
    lines = [json.dumps(sample.review("romance", n)) for n in range(100)]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == "619a67292566ecc5ed1ebf15ac2231d120cbf5bb6090b038988a9ef33dd43663"
    file = gzip.decompress(sample.gzip_file("romance", 40)).splitlines()
    assert [json.loads(line) for line in file] == [json.loads(line) for line in lines[:40]]

"""What the tests of data share: files of reviews, what the reference draws from them, and data folders."""

import gzip
import json
import random
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from goodreads.data.genres import file_name as gz
from goodreads.data.sampling import Parameters

ORDER = (
    "poetry", "children", "comics_graphic", "fantasy_paranormal", "history_biography",
    "mystery_thriller_crime", "romance", "young_adult",
)  # fmt: skip
RECORD = {"review_id": "r", "book_id": "b", "user_id": "u", "review_text": "t", "rating": 3}


def reviews(genre: str, count: int) -> list[dict[str, Any]]:
    return [
        RECORD | {"review_id": f"{genre}{i}", "book_id": f"b{i}", "review_text": f"No. {i} of {genre}"}
        for i in range(count)
    ]


def write_reviews(folder: Path, genre: str, records: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / gz(genre)).write_bytes(gzip.compress(text.encode(), 1))


def reference_sample(
    folder: Path, genres: Collection[str], head: int, per_genre: int, seed: int = 42
) -> dict[str, list[dict[str, Any]]]:
    """The reference's loop, written again: one generator, its order of genres, ``sample`` on the records."""
    rng = random.Random(seed)
    samples = {}
    for genre in [genre for genre in ORDER if genre in genres]:
        with gzip.open(folder / gz(genre), "rt", encoding="utf-8") as file:
            records = [json.loads(line) for line in file][:head]
        samples[genre] = rng.sample(records, min(per_genre, len(records)))
    return samples


def two_genres(source: object, head: int | None = 30, per_genre: int = 20, **changes: Any) -> Parameters:
    """Parameters for poetry and romance."""
    values = {"genres": ("poetry", "romance"), "train_per_genre": per_genre * 4 // 5, **changes}
    return Parameters(str(source), head=head, per_genre=per_genre, **values)


def manifest_of(data: Path) -> Any:
    return json.loads((data / "manifest.json").read_text())


def rows_of(data: Path, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(data / f"{name}.parquet").to_pylist()
    return rows


def ids_of(data: Path, name: str) -> list[str]:
    return [row["review_id"] for row in rows_of(data, name)]


def split_bytes(data: Path) -> list[bytes]:
    return [(data / f"{name}.parquet").read_bytes() for name in ("train", "test")]


def names_in(folder: Path) -> list[str]:
    """The folder's files but the lock."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".goodreads-lock"]
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def write(text: str) -> Callable[[Path], Any]:
    """For parametrised damage: a function that overwrites a file."""
    return lambda path: path.write_text(text)

"""Stream UCSD Goodreads reviews, sample them as the reference does, and write the train and test split.

    python data_loader.py                                    # the eight files of the UCSD server, into data/
    python data_loader.py --source ~/goodreads               # from a local folder (or another base URL)
    python data_loader.py --source sample                    # from generated reviews, without any network

Reads the first --head reviews of each genre, samples --per-genre of them with one random generator, and
makes the first --train-per-genre of those the train split and the rest the test split. A second run with
the same parameters checks what is on disk and uses it. Files: README, "Files".
"""

import argparse
import platform
import random
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.cli import InputError, Parser, Progress, log, positive_int, run
from goodreads.data_report import Row, data_report, drop_leaked
from goodreads.files import atomic_path, sha256_file, sha256_lines, temporary_name, write_json
from goodreads.labels import GENRES, parse_genres
from goodreads.source import UCSD, GenreLines, describe, read_lines
from goodreads.splits import FORMAT, SCHEMA, content_sha256, damaged_file, read_manifest


@dataclass(frozen=True)
class Parameters:
    """What decides the split; equal parameters on an equal source give an equal split.

    Attributes:
        source: base URL, folder or ``sample``.
        genres: slugs in sampling order.
        head, per_genre, train_per_genre: reviews per genre read, sampled, and put into the train split.
        seed: of the one generator that samples every genre in turn.
        drop_duplicates: drop train reviews whose text or id also stands in the test split.
        allow_fewer: accept a genre with fewer than ``per_genre`` reviews.
    """

    source: str = UCSD
    genres: tuple[str, ...] = tuple(parse_genres(",".join(GENRES)))
    head: int = 10_000
    per_genre: int = 1_000
    train_per_genre: int = 800
    seed: int = 42
    drop_duplicates: bool = False
    allow_fewer: bool = False

    def __post_init__(self) -> None:
        if self.train_per_genre >= self.per_genre:
            raise InputError(
                f"--train-per-genre {self.train_per_genre} leaves no test reviews of {self.per_genre}"
            )
        if self.per_genre > self.head:
            raise InputError(f"--per-genre {self.per_genre} is more than --head {self.head}")


def load(parameters: Parameters, output_dir: Path, force: bool = False) -> dict[str, Any]:
    """Make the split in ``output_dir``, or check and reuse the one that stands there.

    Returns:
        The manifest.

    Raises:
        InputError: the source does not yield enough reviews, or the folder cannot be written.
    """
    for name in ("train.parquet", "test.parquet", "manifest.json"):
        with suppress(OSError):
            temporary_name(output_dir / name).unlink()  # of a killed run
    if not force and (manifest := _reusable(parameters, output_dir)) is not None:
        log.info("%s holds this split already, checked against its manifest; --force rebuilds it", output_dir)
        return manifest
    try:
        output_dir.mkdir(parents=True, exist_ok=True)  # rather now than after the download
    except OSError as error:
        raise InputError(f"cannot write {output_dir}: {error.strerror}") from error
    samples, read = sample_genres(parameters)
    train, test = split(samples, parameters)
    manifest = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": _as_json(parameters),
        "labels": sorted(parameters.genres),
        "read": read,
        "report": data_report(train, test),
        "removed_train_review_ids": drop_leaked(train, test) if parameters.drop_duplicates else [],
        "splits": {"train": _split_entry(train, parameters), "test": _split_entry(test, parameters)},
        "files": {
            f"{name}.parquet": _write(output_dir / f"{name}.parquet", rows)
            for name, rows in (("train", train), ("test", test))
        },
        "versions": {"python": platform.python_version(), "pyarrow": pa.__version__},
    }
    write_json(output_dir / "manifest.json", manifest)  # last: it vouches for the files before it
    return manifest


def draw_indices(counts: Mapping[str, int], per_genre: int, seed: int) -> dict[str, list[int]]:
    """Which reviews the reference samples: for each genre in turn ``sample(reviews, per_genre)``.

    ``random.sample`` looks at the population's length alone, so indices can be drawn before reading.

    Args:
        counts: genre -> number of reviews to sample from, in sampling order.
        per_genre: reviews to sample; all of them where there are fewer.
        seed: of the one ``random.Random`` that serves every genre.
    """
    rng = random.Random(seed)
    return {genre: rng.sample(range(n), min(per_genre, n)) for genre, n in counts.items()}


def sample_genres(parameters: Parameters) -> tuple[dict[str, list[Row]], dict[str, Any]]:
    """Stream all genres at once and keep the sampled reviews.

    A file that ends before ``head`` changes what is drawn from it and from the genres after it; those are
    then read a second time, now with the counts known.

    Returns:
        genre -> its sampled records in draw order; and genre -> the manifest's entry on what was read.

    Raises:
        InputError: as ``goodreads.source.read_lines``, or a genre has fewer reviews than asked.
    """
    counts = dict.fromkeys(parameters.genres, parameters.head)
    drawn: dict[str, list[int]] = {}
    read: dict[str, GenreLines] = {}
    while drawn != (wanted := draw_indices(counts, parameters.per_genre, parameters.seed)):
        stale = [genre for genre in parameters.genres if drawn.get(genre) != wanted[genre]]
        read.update(_read_genres(parameters, {genre: wanted[genre] for genre in stale}))
        drawn = wanted
        for genre in stale:
            _check_count(genre, read[genre].lines, parameters)
            counts[genre] = read[genre].lines
    samples = {genre: [read[genre].records[i] for i in drawn[genre]] for genre in parameters.genres}
    entries = {
        genre: {
            "file": describe(parameters.source, genre),
            "reviews_read": read[genre].lines,
            "bytes_read": read[genre].bytes,
        }
        for genre in parameters.genres
    }
    return samples, entries


def _read_genres(parameters: Parameters, wanted: Mapping[str, Sequence[int]]) -> dict[str, GenreLines]:
    stop = Event()

    def read(position: int, genre: str) -> GenreLines:
        progress = Progress(genre, parameters.head, "reviews", position=position)
        kept = set(wanted[genre])
        result = read_lines(parameters.source, genre, parameters.head, kept, progress, stop)
        progress.close()
        return result

    with ThreadPoolExecutor(len(wanted)) as pool:
        futures = {genre: pool.submit(read, i, genre) for i, genre in enumerate(wanted)}
        try:
            for future in as_completed(futures.values()):
                future.result()  # the first failure ends the run
        finally:
            stop.set()
    return {genre: future.result() for genre, future in futures.items()}


def _check_count(genre: str, count: int, parameters: Parameters) -> None:
    if count < parameters.per_genre and not parameters.allow_fewer:
        raise InputError(
            f"{genre} has {count:,} reviews, fewer than --per-genre {parameters.per_genre:,}; "
            "lower --per-genre and --train-per-genre, or take what there is with --allow-fewer"
        )
    if count < 2:
        raise InputError(f"{genre} has {count} reviews: too few to split")
    if count < parameters.head:
        log.info("%s: the file ends before --head %s; sampling from %s", genre, parameters.head, count)


def split(samples: Mapping[str, list[Row]], parameters: Parameters) -> tuple[list[Row], list[Row]]:
    """The sampled records as rows of the train and the test split, genre after genre in sampling order."""
    labels = sorted(samples)
    train: list[Row] = []
    test: list[Row] = []
    for genre, records in samples.items():
        cut = max(1, len(records) * parameters.train_per_genre // parameters.per_genre)
        rows = [
            {
                "review_id": record["review_id"],
                "book_id": record["book_id"],
                "user_id": record["user_id"],
                "genre": genre,
                "label": labels.index(genre),
                "text": record["review_text"],
                "rating": record["rating"],
            }
            for record in records
        ]
        train += rows[:cut]
        test += rows[cut:]
    return train, test


def _reusable(parameters: Parameters, output_dir: Path) -> dict[str, Any] | None:
    if not (output_dir / "manifest.json").exists():
        return None
    try:
        manifest = read_manifest(output_dir)
        problem = damaged_file(output_dir, manifest)
        made_with = manifest["parameters"]
    except (InputError, KeyError, TypeError, AttributeError) as error:
        log.warning("rebuilding: the manifest is of no use (%s)", error)
        return None
    if problem:
        log.warning("rebuilding: %s", problem)
        return None
    asked = _as_json(parameters)
    changed = [f"{key} was {made_with.get(key)!r}" for key in asked if made_with.get(key) != asked[key]]
    if changed:
        log.warning("rebuilding %s, made with other parameters: %s", output_dir, "; ".join(changed))
        return None
    return manifest


def _as_json(parameters: Parameters) -> dict[str, Any]:
    return {**asdict(parameters), "genres": list(parameters.genres)}


def _write(path: Path, rows: list[Row]) -> dict[str, Any]:
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), temporary, compression="zstd")
    return {"rows": len(rows), "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _split_entry(rows: Sequence[Row], parameters: Parameters) -> dict[str, Any]:
    ids = {genre: [row["review_id"] for row in rows if row["genre"] == genre] for genre in parameters.genres}
    columns = [[row[key] for row in rows] for key in ("review_id", "label", "text")]
    return {
        "content_sha256": content_sha256(*columns),
        "genres": {
            genre: {"reviews": len(values), "review_ids_sha256": sha256_lines(values)}
            for genre, values in ids.items()
        },
    }


def summary(manifest: dict[str, Any]) -> str:
    """The manifest's counts and data report in a few lines."""
    report = manifest["report"]
    lines = [f"{'genre':<24}{'read':>8}{'train':>8}{'test':>8}"]
    for genre, entry in manifest["read"].items():
        train, test = (manifest["splits"][name]["genres"][genre]["reviews"] for name in ("train", "test"))
        lines.append(f"{genre:<24}{entry['reviews_read']:>8}{train:>8}{test:>8}")
    lines.append(
        f"empty {report['empty_texts']}, very short {report['very_short_texts']}, "
        f"exact duplicates {report['exact_duplicate_texts']}, train reviews also in test "
        f"{report['train_reviews_also_in_test']} ({len(manifest['removed_train_review_ids'])} removed), "
        f"books under several genres {report['book_ids_in_several_genres']}"
    )
    return "\n".join(lines)


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="data_loader.py")
    add = parser.add_argument
    add("--source", default=UCSD, help="base URL, local folder, or 'sample' for generated reviews")
    add("--genres", default=",".join(GENRES), help="comma-separated slugs")
    add("--head", type=positive_int, default=10_000, help="reviews read from the start of each file")
    add("--per-genre", type=positive_int, default=1_000, help="reviews sampled from those")
    add(
        "--train-per-genre",
        type=positive_int,
        default=800,
        help="sampled reviews for training; the rest test",
    )
    add("--seed", type=int, default=42, help="of the sampling")
    add("--output-dir", type=Path, default=Path("data"), help="folder for the split and its manifest")
    add("--drop-duplicates", action="store_true", help="drop train reviews whose text or id stands in test")
    add("--allow-fewer", action="store_true", help="accept genres with fewer than --per-genre reviews")
    add("--force", action="store_true", help="rebuild what is on disk")
    return parser.parse_args()


def main() -> None:
    """Make or check the split and print its summary."""
    options = vars(_options())
    output_dir, force = options.pop("output_dir"), options.pop("force")
    options["genres"] = tuple(parse_genres(options["genres"]))
    print(summary(load(Parameters(**options), output_dir, force)))


if __name__ == "__main__":
    run(main, "data_loader.py")

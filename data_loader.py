"""Stream UCSD Goodreads reviews, sample them as the reference does, and write the train and test split.

    python data_loader.py                                    # the eight files of the UCSD server, into data/
    python data_loader.py --source ~/goodreads               # from a local folder (or another base URL)
    python data_loader.py --source sample                    # from generated reviews, without any network
    python data_loader.py --head all --per-genre all --test-from data --output-dir data-all    # everything

Reads the first --head reviews of each genre, samples --per-genre of them with one random generator, and
makes the first --train-per-genre of those the train split and the rest the test split. A second run with
the same parameters checks what is on disk and uses it.

--head all samples from whole files. --per-genre all makes training data, in shards, of every review read
whose id or text does not stand in the test split of --test-from; interrupted, it goes on where it was.
Files: README, "Files".
"""

import argparse
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.common.cli import Parser, positive_int, run, whole_number
from goodreads.common.errors import InputError
from goodreads.common.files import atomic_path, sha256_file, sha256_lines, write_json
from goodreads.common.progress import Progress, log
from goodreads.data import full_corpus as shards
from goodreads.data.data_report import SHORT_WORDS, Row, data_report, drop_leaked
from goodreads.data.genres import GENRES, parse_genres
from goodreads.data.protocol import Parameters, sample_genres, split
from goodreads.data.reading import BadLines, each_genre
from goodreads.data.resumable_http import Limits
from goodreads.data.review_files import UCSD, Source, Stream
from goodreads.data.split_store import FORMAT, SCHEMA, content_sha256, damaged_file, read_manifest, read_split

__all__ = ["Parameters", "load"]  # what train.py and evaluate_model.py use of it

CACHE = Path("~/.cache/goodreads-reviews")


def load(
    parameters: Parameters,
    output_dir: Path,
    force: bool = False,
    source: Source | None = None,
    test_from: Path | None = None,
) -> dict[str, Any]:
    """Make the split in ``output_dir``, or check and reuse the one that stands there.

    Args:
        parameters: what decides the split.
        output_dir: the folder that becomes the data folder.
        force: make it anew whatever stands there.
        source: how ``parameters.source`` is fetched; without a cache and with usual patience if None.
        test_from: data folder whose test split is held out, for ``--per-genre all``.

    Returns:
        The manifest.

    Raises:
        InputError: the source does not yield enough reviews, or the folder cannot be written.
    """
    if not force and (manifest := _reusable(parameters, output_dir)) is not None:
        log.info("%s holds this split already, checked against its manifest; --force rebuilds it", output_dir)
        return manifest
    try:
        output_dir.mkdir(parents=True, exist_ok=True)  # rather now than after the download
    except OSError as error:
        raise InputError(f"cannot write {output_dir}: {error.strerror}") from error
    source = source or Source(parameters.source)
    if test_from is None:
        made = _load_sample(parameters, output_dir, source)
    else:
        made = _load_all(parameters, output_dir, source, test_from, force)
    manifest = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": parameters.as_json(),
        "labels": sorted(parameters.genres),
        **made,
        "versions": {"python": platform.python_version(), "pyarrow": pa.__version__},
    }
    write_json(output_dir / "manifest.json", manifest)  # last: it vouches for the files before it
    shards.remove_others(output_dir, manifest["files"])
    return manifest


def _load_sample(parameters: Parameters, output_dir: Path, source: Source) -> dict[str, Any]:
    samples = sample_genres(parameters, source)
    train, test = split(samples, parameters)
    return {
        "read": {
            genre: _read_entry(source.describe(genre), sample.lines, sample.bytes, sample.bad)
            for genre, sample in samples.items()
        },
        "report": data_report(train, test),
        "removed_train_review_ids": drop_leaked(train, test) if parameters.drop_duplicates else [],
        "splits": {"train": _split_entry(train, parameters), "test": _split_entry(test, parameters)},
        "files": {
            f"{name}.parquet": _write(output_dir / f"{name}.parquet", rows)
            for name, rows in (("train", train), ("test", test))
        },
    }


def _load_all(
    parameters: Parameters, output_dir: Path, source: Source, test_from: Path, force: bool
) -> dict[str, Any]:
    """Every review that the test split of ``test_from`` does not hold, in shards beside a copy of it."""
    test, origin = read_split(test_from, "test"), read_manifest(test_from)
    held_out = shards.HeldOut.of(test.review_ids, test.texts)
    labels = sorted(parameters.genres)
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps more of what eight threads have freed
    if force:
        shards.forget_progress(output_dir)

    def work(genre: str, stream: Stream, progress: Progress) -> shards.State:
        mine = shards.Shards(output_dir, genre, labels.index(genre), parameters.as_json())
        mine.fill(stream, parameters.head, held_out, BadLines(parameters.max_bad_lines), progress)
        return mine.state

    states = each_genre(dict.fromkeys(parameters.genres, parameters.head), source, work)
    with atomic_path(output_dir / "test.parquet") as temporary:
        temporary.write_bytes((test_from / "test.parquet").read_bytes())
    files = {name: entry for state in states.values() for name, entry in state.files.items()}
    report = {name: sum(state.counts[name] for state in states.values()) for name in shards.REPORTED}
    train = {
        "content_sha256": sha256_lines(entry["sha256"] for entry in files.values()),
        "genres": {genre: {"reviews": state.counts["train"]} for genre, state in states.items()},
    }
    return {
        "read": {
            genre: _read_entry(source.describe(genre), state.lines, state.bytes, state.bad_lines)
            for genre, state in states.items()
        },
        "report": {
            **report,
            "very_short_means_fewer_words_than": SHORT_WORDS,
            "train_reviews_also_in_test": 0,
        },
        "removed_train_review_ids": [],
        "splits": {"train": train, "test": origin["splits"]["test"]},
        "files": {**files, "test.parquet": origin["files"]["test.parquet"]},
        "test_parameters": origin.get("test_parameters", origin["parameters"]),
    }


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
    asked = parameters.as_json()
    changed = [f"{key} was {made_with.get(key)!r}" for key in asked if made_with.get(key) != asked[key]]
    if changed:
        log.warning("rebuilding %s, made with other parameters: %s", output_dir, "; ".join(changed))
        return None
    return manifest


def _read_entry(file: str, lines: int, size: int, bad: list[str]) -> dict[str, Any]:
    return {"file": file, "reviews_read": lines, "bytes_read": size, "bad_lines": bad}


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
    lines = [f"{'genre':<24}{'read':>10}{'train':>10}{'test':>8}"]
    for genre, entry in manifest["read"].items():
        train, test = (manifest["splits"][name]["genres"][genre]["reviews"] for name in ("train", "test"))
        lines.append(f"{genre:<24}{entry['reviews_read']:>10}{train:>10}{test:>8}")
    found = f"empty {report['empty_texts']}, very short {report['very_short_texts']}, "
    if "test_parameters" in manifest:
        found += (
            f"held out by review_id {report['held_out_by_review_id']}, by text {report['held_out_by_text']}"
        )
    else:
        found += (
            f"exact duplicates {report['exact_duplicate_texts']}, train reviews also in test "
            f"{report['train_reviews_also_in_test']} ({len(manifest['removed_train_review_ids'])} removed), "
            f"books under several genres {report['book_ids_in_several_genres']}"
        )
    if bad := sum(len(entry["bad_lines"]) for entry in manifest["read"].values()):
        found += f", bad lines left out {bad}"
    return "\n".join([*lines, found])


def _or_all(kind: Callable[[str], int]) -> Callable[[str], int | None]:
    def parse(text: str) -> int | None:
        return None if text == "all" else kind(text)

    parse.__name__ = "number (or 'all')"
    return parse


def _options() -> argparse.Namespace:
    parser = Parser(__doc__, prog="data_loader.py")
    add = parser.add_argument
    add("--source", default=UCSD, help="base URL, local folder, or 'sample' for generated reviews")
    add("--genres", default=",".join(GENRES), help="comma-separated slugs")
    add("--head", type=_or_all(positive_int), default=10_000, help="reviews read of each file, or 'all'")
    add("--per-genre", type=_or_all(positive_int), default=1_000, help="reviews sampled from those, or 'all'")
    add(
        "--train-per-genre",
        type=positive_int,
        default=800,
        help="sampled reviews for training; the rest test",
    )
    add(
        "--test-from",
        type=Path,
        default=Path("data"),
        help="data folder whose test split --per-genre all holds out",
    )
    add("--seed", type=int, default=42, help="of the sampling")
    add("--output-dir", type=Path, default=Path("data"), help="folder for the split and its manifest")
    add("--drop-duplicates", action="store_true", help="drop train reviews whose text or id stands in test")
    add("--allow-fewer", action="store_true", help="accept genres with fewer than --per-genre reviews")
    add(
        "--max-bad-lines",
        type=whole_number,
        default=0,
        help="lines per genre that may be no reviews; left out and counted",
    )
    add("--force", action="store_true", help="rebuild what is on disk")
    network = parser.add_argument_group("network")
    network.add_argument(
        "--cache", type=Path, nargs="?", const=CACHE,
        help=f"keep what is fetched in this folder ({CACHE} unless named) for later runs; off by default",
    )  # fmt: skip
    network.add_argument(
        "--timeout", type=positive_int, default=60, help="seconds without a byte before a new try"
    )
    network.add_argument(
        "--retries", type=whole_number, default=4, help="failed tries in a row; 0 gives up at the first"
    )
    return parser.parse_args()


def main() -> None:
    """Make or check the split and print its summary."""
    options = vars(_options())
    del options["debug"]
    take = options.pop
    output_dir, force, test_from = take("output_dir"), take("force"), take("test_from")
    cache, limits = take("cache"), Limits(take("timeout"), take("retries"))
    options["genres"] = tuple(parse_genres(options["genres"]))
    if options["per_genre"] is None:
        options |= {"train_per_genre": None, "test_split": _held_out(test_from, options["genres"])}
    else:
        test_from = None
    parameters = Parameters(**options)
    source = Source(parameters.source, cache and cache.expanduser(), limits)
    print(summary(load(parameters, output_dir, force, source, test_from)))


def _held_out(test_from: Path, genres: Sequence[str]) -> str:
    manifest = read_manifest(test_from)
    if manifest["labels"] != sorted(genres):
        raise InputError(f"--test-from {test_from} is of other genres: {', '.join(manifest['labels'])}")
    content: str = manifest["splits"]["test"]["content_sha256"]
    return content


if __name__ == "__main__":
    run(main, "data_loader.py")

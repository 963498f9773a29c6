"""Build a data folder: read, draw, write, and leave what stands there alone unless it may be replaced."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import filterfalse
from pathlib import Path
from typing import Any

import pyarrow as pa

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_files, check_writable, locked, sha256_lines, write_json
from goodreads.common.progress import log
from goodreads.data import split_store as store
from goodreads.data.review_files import ReviewFile, read_genres
from goodreads.data.sampling import Parameters, Row, rows_of, sample_split

SHARD = "train/{}-00000.parquet"


def build_split(
    parameters: Parameters, output_dir: Path, *, force: bool = False, test_from: Path | None = None
) -> dict[str, Any]:
    """Make the split in ``output_dir``, or check and reuse the one that stands there.

    Args:
        parameters: what decides the split.
        output_dir: the folder that becomes the data folder.
        force: make it anew, whatever split stands there.
        test_from: data folder whose test split is held out where ``parameters.per_genre`` is None.

    Returns:
        The manifest.

    Raises:
        InputError: the source does not yield enough reviews, the folder cannot be written, or it holds a
            split made with other parameters or files that this program did not make.
    """
    if (test_from is None) != (parameters.per_genre is not None):
        raise InputError("--test-from and --per-genre all go together")
    make: Callable[[Parameters, Path], dict[str, Any]] = _sampled
    if test_from is not None:
        origin = store.read_manifest(test_from)
        if origin["labels"] != sorted(parameters.genres):
            raise InputError(f"--test-from {test_from} is of other genres: {', '.join(origin['labels'])}")
        parameters = replace(parameters, test_split=origin["splits"]["test"]["content_sha256"])
        make = partial(_everything, test_from)
    with locked(output_dir):
        if not force and (manifest := _reusable(parameters, output_dir)):
            return manifest
        old = store.own_files(output_dir)
        check_writable(output_dir / "train")  # may be a link
        with atomic_files(output_dir) as new:
            manifest = {
                "format": store.FORMAT,
                "parameters": parameters.as_json(),
                "labels": sorted(parameters.genres),
                **make(parameters, new),
            }
            write_json(new / "manifest.json", manifest)
        for name in old - {"manifest.json", *manifest["files"]}:
            (output_dir / name).unlink(missing_ok=True)
    return manifest


def _reusable(parameters: Parameters, output_dir: Path) -> dict[str, Any] | None:
    """The manifest of the split that stands in the folder, if it is whole; why not is logged.

    Raises:
        InputError: it was made with other parameters.
    """
    if not (output_dir / "manifest.json").exists():
        return None
    try:
        manifest, now = store.read_manifest(output_dir), parameters.as_json()
        was = Parameters.from_json(manifest["parameters"], "the manifest").as_json()
        if was == now:
            store.check_files(output_dir, manifest, manifest["files"])
            log.info("%s holds this split already, checked against its manifest", output_dir)
            return manifest
    except InputError as error:
        log.warning("rebuilding: %s", error)
        return None
    changed = "; ".join(f"{key} was {was[key]!r}, is {now[key]!r}" for key in now if was[key] != now[key])
    advice = "--force replaces it, or name another --output-dir"
    raise InputError(f"{output_dir} holds a split made with other parameters: {changed}; {advice}")


def _sampled(parameters: Parameters, folder: Path) -> dict[str, Any]:
    """Write the sampled train and test split; their part of the manifest."""
    read, train, test = sample_split(parameters)
    in_test = store.stands_in([row["review_id"] for row in test], [row["text"] for row in test])
    doubled = [row["review_id"] for row in train if in_test(row)]
    if parameters.drop_duplicates:
        train = list(filterfalse(in_test, train))
    splits, files = {"train": train, "test": test}, {"train.parquet": train, "test.parquet": test}
    return {
        "read": read,
        "report": {"train_reviews_also_in_test": len(doubled)},
        "removed_train_review_ids": doubled if parameters.drop_duplicates else [],
        "splits": {name: store.split_entry(rows, parameters.genres) for name, rows in splits.items()},
        "files": {name: store.write_rows(folder / name, rows) for name, rows in files.items()},
    }


def _everything(test_from: Path, parameters: Parameters, folder: Path) -> dict[str, Any]:
    """Write all reviews that the test split of ``test_from`` does not hold, and a copy of that split."""
    test, origin = store.read_split(test_from, "test"), store.read_manifest(test_from)
    (folder / "test.parquet").write_bytes((test_from / "test.parquet").read_bytes())
    (folder / "train").mkdir()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps more of what eight threads have freed
    work = partial(_write_all_but, store.stands_in(test.review_ids, test.texts), parameters, folder)
    results = read_genres(parameters.source, parameters.genres, work)
    shards = {SHARD.format(genre): entry for genre, (_, entry) in results.items()}
    train = {
        "content_sha256": sha256_lines(entry["sha256"] for entry in shards.values()),
        "genres": {genre: {"reviews": entry["rows"]} for genre, (_, entry) in results.items()},
    }
    held_out = sum(file.count - len(file.bad_lines) - entry["rows"] for file, entry in results.values())
    return {
        "read": {genre: file.manifest_entry() for genre, (file, _) in results.items()},
        "report": {"held_out": held_out, "train_reviews_also_in_test": 0},
        "removed_train_review_ids": [],
        "splits": {"train": train, "test": origin["splits"]["test"]},
        "files": {**shards, "test.parquet": origin["files"]["test.parquet"]},
        "test_parameters": origin.get("test_parameters", origin["parameters"]),
    }


def _write_all_but(
    held_out: Callable[[Row], bool], parameters: Parameters, folder: Path, file: ReviewFile
) -> dict[str, Any]:
    """Read one genre and write its reviews that are not held out; raises InputError if there are none."""
    reviews = file.reviews(enumerate(file.lines(parameters.head)), parameters.max_bad_lines)
    rows = filterfalse(held_out, rows_of(parameters, file.genre, reviews))
    entry = store.write_rows(folder / SHARD.format(file.genre), rows)
    if not entry["rows"]:
        raise InputError(f"{file.name} has no review outside the test split")
    return entry

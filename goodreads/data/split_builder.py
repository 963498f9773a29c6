"""Build a data folder: read, draw, write, and leave what stands there alone unless it may be replaced."""

import platform
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_files, check_writable, locked, sha256_lines, write_json
from goodreads.common.progress import log
from goodreads.data import split_store as store
from goodreads.data.full_corpus import write_corpus
from goodreads.data.resumable_http import Limits
from goodreads.data.review_files import read_genres
from goodreads.data.sampling import Parameters, sample_genres, train_and_test


def build_split(
    parameters: Parameters,
    output_dir: Path,
    *,
    force: bool = False,
    limits: Limits | None = None,
    test_from: Path | None = None,
) -> dict[str, Any]:
    """Make the split in ``output_dir``, or check and reuse the one that stands there.

    Args:
        parameters: what decides the split.
        output_dir: the folder that becomes the data folder.
        force: make it anew, whatever split stands there.
        limits: patience with the network.
        test_from: data folder whose test split is held out where ``parameters.per_genre`` is None.

    Returns:
        The manifest.

    Raises:
        InputError: the source does not yield enough reviews, the folder cannot be written, or it holds a
            split made with other parameters or files that this program did not make.
    """
    if (test_from is None) != (parameters.per_genre is not None):
        raise InputError("--test-from and --per-genre all go together")
    if test_from is not None:
        origin = store.read_manifest(test_from)
        if origin["labels"] != sorted(parameters.genres):
            raise InputError(f"--test-from {test_from} is of other genres: {', '.join(origin['labels'])}")
        parameters = replace(parameters, test_split=origin["splits"]["test"]["content_sha256"])
    make = partial(_everything, test_from=test_from) if test_from else _sampled
    with locked(output_dir):
        if not force and (manifest := _reusable(parameters, output_dir)) is not None:
            return manifest
        old = store.own_files(output_dir)
        check_writable(output_dir / "train")  # may be a link
        with atomic_files(output_dir) as new:
            manifest = {
                "format": store.FORMAT,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "parameters": parameters.as_json(),
                "labels": sorted(parameters.genres),
                **make(parameters, limits or Limits(), new),
                "versions": {"python": platform.python_version(), "pyarrow": pa.__version__},
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
        changed = [f"{key} was {was[key]!r}, is {now[key]!r}" for key in now if was[key] != now[key]]
        if not changed:
            store.check_files(output_dir, manifest, manifest["files"])
            log.info("%s holds this split already, checked against its manifest", output_dir)
            return manifest
    except InputError as error:
        log.warning("rebuilding: %s", error)
        return None
    raise InputError(
        f"{output_dir} holds a split made with other parameters: {'; '.join(changed)}; "
        "--force replaces it, or name another --output-dir"
    )


def _sampled(parameters: Parameters, limits: Limits, folder: Path) -> dict[str, Any]:
    """Write the sampled train and test split; their part of the manifest."""
    samples = sample_genres(parameters, limits)
    train, test = train_and_test(samples, parameters)
    report, leaked = store.duplicates_report(train, test), []
    if parameters.drop_duplicates:
        leaked = store.leaked_rows(train, test)
        gone = set(map(id, leaked))
        train = [row for row in train if id(row) not in gone]
    splits = {"train": train, "test": test}
    return {
        "read": {genre: file.manifest_entry() for genre, (file, _) in samples.items()},
        "report": report,
        "removed_train_review_ids": [row["review_id"] for row in leaked],
        "splits": {name: store.split_entry(splits[name], parameters.genres) for name in splits},
        "files": {
            f"{name}.parquet": store.write_rows(folder / f"{name}.parquet", splits[name]) for name in splits
        },
    }


def _everything(parameters: Parameters, limits: Limits, folder: Path, test_from: Path) -> dict[str, Any]:
    """Write all reviews that the test split of ``test_from`` does not hold, and a copy of that split."""
    test, origin = store.read_split(test_from, "test"), store.read_manifest(test_from)
    (folder / "test.parquet").write_bytes((test_from / "test.parquet").read_bytes())
    (folder / "train").mkdir()
    held_out = frozenset(test.review_ids), frozenset(text for text in test.texts if text.strip())
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps more of what eight threads have freed
    work = partial(write_corpus, parameters, held_out, folder)
    files: dict[str, Any] = {}
    read, genres, report = {}, {}, Counter(empty_texts=0, held_out_by_review_id=0, held_out_by_text=0)
    results = read_genres(parameters.source, limits, parameters.genres, work)
    for genre, (file, (shards, counts)) in results.items():
        files |= shards
        read[genre], genres[genre] = file.manifest_entry(), {"reviews": counts.pop("train")}
        report.update(counts)
    content = sha256_lines(entry["sha256"] for entry in files.values())
    return {
        "read": read,
        "report": {**report, "train_reviews_also_in_test": 0},
        "removed_train_review_ids": [],
        "splits": {"train": {"content_sha256": content, "genres": genres}, "test": origin["splits"]["test"]},
        "files": {**files, "test.parquet": origin["files"]["test.parquet"]},
        "test_parameters": origin.get("test_parameters", origin["parameters"]),
    }

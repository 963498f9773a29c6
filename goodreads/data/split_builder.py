"""Build a data folder: read, draw, write, and leave what stands there alone unless it may be replaced."""

import platform
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_files, locked, sha256_lines, write_json
from goodreads.common.progress import log
from goodreads.data import split_store as store
from goodreads.data.full_corpus import write_corpus
from goodreads.data.resumable_http import Limits
from goodreads.data.review_files import Source, read_genres
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
        parameters = replace(parameters, test_split=_test_split(test_from, output_dir, parameters))
    # a folder that holds the split already need not be writable
    if not force and (manifest := _existing(parameters, output_dir)[0]) is not None:
        return manifest
    with locked(output_dir):
        if not force:
            manifest, problem = _existing(parameters, output_dir)  # another run may have made it meanwhile
            if manifest is not None:
                return manifest
            if problem:
                log.warning("rebuilding: %s", problem)
        foreign, old = store.foreign_and_own_files(output_dir)
        if foreign:
            raise InputError(
                f"{output_dir / min(foreign)} is in the way, and data_loader.py did not make it; "
                "move it away, or name another --output-dir"
            )
        with atomic_files(output_dir) as new:
            manifest = _write(parameters, limits or Limits(), test_from, new)
            for shard in (new / "train").iterdir():
                (output_dir / "train").mkdir(exist_ok=True)
                shard.replace(output_dir / "train" / shard.name)
            (new / "train").rmdir()
        for name in old - {"manifest.json", *manifest["files"]}:
            (output_dir / name).unlink(missing_ok=True)
        with suppress(OSError):
            (output_dir / "train").rmdir()  # only where nothing is left
    return manifest


def _existing(parameters: Parameters, output_dir: Path) -> tuple[dict[str, Any] | None, str]:
    """The manifest of the split that stands in the folder, or None and what is wrong with it.

    Raises:
        InputError: it was made with other parameters.
    """
    if not (output_dir / "manifest.json").exists():
        return None, ""
    try:
        manifest = store.read_manifest(output_dir)
    except InputError as error:
        return None, str(error)
    was = Parameters.from_json(manifest["parameters"], "the manifest").as_json()
    now = parameters.as_json()
    if changed := [f"{key} was {was[key]!r}, is {now[key]!r}" for key in now if was[key] != now[key]]:
        raise InputError(
            f"{output_dir} holds a split made with other parameters: {'; '.join(changed)}; "
            "--force replaces it, or name another --output-dir"
        )
    if problem := store.damaged_file(output_dir, manifest):
        return None, problem
    log.info("%s holds this split already, checked against its manifest; --force rebuilds it", output_dir)
    return manifest, ""


def _test_split(test_from: Path, output_dir: Path, parameters: Parameters) -> str:
    """The hash of the test split that is held out, after the checks that need no download."""
    manifest = store.read_manifest(test_from)
    if manifest["labels"] != sorted(parameters.genres):
        raise InputError(f"--test-from {test_from} is of other genres: {', '.join(manifest['labels'])}")
    if output_dir.exists() and output_dir.samefile(test_from):
        raise InputError(f"--output-dir and --test-from are both {test_from}; name another --output-dir")
    content: str = manifest["splits"]["test"]["content_sha256"]
    return content


def _write(parameters: Parameters, limits: Limits, test_from: Path | None, folder: Path) -> dict[str, Any]:
    """Write all files of a split into ``folder``; the manifest."""
    (folder / "train").mkdir()
    if test_from is None:
        made = _sampled(parameters, limits, folder)
    else:
        made = _everything(parameters, limits, test_from, folder)
    manifest = {
        "format": store.FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": parameters.as_json(),
        "labels": sorted(parameters.genres),
        **made,
        "versions": {"python": platform.python_version(), "pyarrow": pa.__version__},
    }
    write_json(folder / "manifest.json", manifest)
    return manifest


def _sampled(parameters: Parameters, limits: Limits, folder: Path) -> dict[str, Any]:
    """Write the sampled train and test split; their part of the manifest."""
    samples = sample_genres(parameters, limits)
    train, test = train_and_test(samples, parameters)
    report, removed = store.duplicates_report(train, test), []
    if parameters.drop_duplicates:
        leaked = store.leaked_rows(train, test)
        removed, gone = [row["review_id"] for row in leaked], {id(row) for row in leaked}
        train = [row for row in train if id(row) not in gone]
        log.info("--drop-duplicates: removed %d train reviews that stand in the test split", len(removed))
    splits = {"train": train, "test": test}
    return {
        "read": {genre: sample.read for genre, sample in samples.items()},
        "report": report,
        "removed_train_review_ids": removed,
        "splits": {name: store.split_entry(rows, parameters.genres) for name, rows in splits.items()},
        "files": {
            f"{name}.parquet": store.write_rows(folder / f"{name}.parquet", splits[name]) for name in splits
        },
    }


def _everything(parameters: Parameters, limits: Limits, test_from: Path, folder: Path) -> dict[str, Any]:
    """Write all reviews that the test split of ``test_from`` does not hold, and a copy of that split."""
    test, origin = store.read_split(test_from, "test"), store.read_manifest(test_from)
    (folder / "test.parquet").write_bytes((test_from / "test.parquet").read_bytes())
    held_out = frozenset(test.review_ids), frozenset(text for text in test.texts if text.strip())
    labels, head, tolerated = sorted(parameters.genres), parameters.head, parameters.max_bad_lines
    # Arrow's own pool keeps more of what eight threads have freed
    pa.set_memory_pool(pa.system_memory_pool())
    genres = read_genres(
        Source(parameters.source, limits),
        parameters.genres,
        lambda file: write_corpus(
            file, head, held_out, tolerated, labels.index(file.genre), folder / "train"
        ),
    )
    files = {name: entry for corpus in genres.values() for name, entry in corpus.files.items()}
    reported = ("empty_texts", "very_short_texts", "held_out_by_review_id", "held_out_by_text")
    report = {name: sum(corpus.counts[name] for corpus in genres.values()) for name in reported}
    train = {
        "content_sha256": sha256_lines(entry["sha256"] for entry in files.values()),
        "genres": {genre: {"reviews": corpus.counts["train"]} for genre, corpus in genres.items()},
    }
    return {
        "read": {genre: corpus.read for genre, corpus in genres.items()},
        "report": {
            **report,
            "very_short_means_fewer_words_than": store.SHORT_WORDS,
            "train_reviews_also_in_test": 0,
        },
        "removed_train_review_ids": [],
        "splits": {"train": train, "test": origin["splits"]["test"]},
        "files": {**files, "test.parquet": origin["files"]["test.parquet"]},
        "test_parameters": origin.get("test_parameters", origin["parameters"]),
    }

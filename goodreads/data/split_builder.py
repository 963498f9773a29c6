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
from goodreads.data.full_corpus import REPORTED, HeldOut, write_corpus
from goodreads.data.resumable_http import Limits
from goodreads.data.review_files import Source, read_genres
from goodreads.data.sampling import Parameters, sample_genres, train_and_test
from goodreads.data.split_store import (
    FORMAT,
    SHORT_WORDS,
    damaged_file,
    duplicates_report,
    leaked_rows,
    made_here,
    read_manifest,
    read_split,
    split_entry,
    split_files,
    write_rows,
)


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
    if not force and (manifest := _existing(parameters, output_dir, quiet=True)) is not None:
        return manifest
    with locked(output_dir):
        if not force and (manifest := _existing(parameters, output_dir)) is not None:
            return manifest
        old = made_here(output_dir)
        for name in ("manifest.json", *split_files(output_dir)):
            if name not in old and (output_dir / name).exists():
                raise InputError(
                    f"{output_dir / name} is in the way, and data_loader.py did not make it; "
                    "move it away, or name another --output-dir"
                )
        with atomic_files(output_dir) as new:
            (new / "train").mkdir()
            limits = limits or Limits()
            if test_from is None:
                made = _sampled(parameters, limits, new)
            else:
                made = _everything(parameters, limits, test_from, new)
            manifest = {
                "format": FORMAT,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "parameters": parameters.as_json(),
                "labels": sorted(parameters.genres),
                **made,
                "versions": {"python": platform.python_version(), "pyarrow": pa.__version__},
            }
            write_json(new / "manifest.json", manifest)
            for shard in (new / "train").iterdir():
                (output_dir / "train").mkdir(exist_ok=True)
                shard.replace(output_dir / "train" / shard.name)
            (new / "train").rmdir()
        for name in old - {"manifest.json", *manifest["files"]}:
            (output_dir / name).unlink(missing_ok=True)
        with suppress(OSError):
            (output_dir / "train").rmdir()  # only where nothing is left
    return manifest


def _existing(parameters: Parameters, output_dir: Path, quiet: bool = False) -> dict[str, Any] | None:
    """The manifest of the split that stands in the folder; None if there is none or a damaged one.

    Raises:
        InputError: it was made with other parameters.
    """
    if not (output_dir / "manifest.json").exists():
        return None
    problem: str | None
    try:
        manifest = read_manifest(output_dir)
        was, now = manifest["parameters"], parameters.as_json()
        changed = [f"{key} was {was[key]!r}, is {now[key]!r}" for key in was if was[key] != now[key]]
        if changed:
            raise _OtherParameters(
                f"{output_dir} holds a split made with other parameters: {'; '.join(changed)}; "
                "--force replaces it, or name another --output-dir"
            )
        problem = damaged_file(output_dir, manifest)
    except _OtherParameters:
        raise
    except InputError as error:
        problem = str(error)
    if problem is None:
        log.info("%s holds this split already, checked against its manifest; --force rebuilds it", output_dir)
        return manifest
    if not quiet:
        log.warning("rebuilding: %s", problem)
    return None


class _OtherParameters(InputError):
    pass


def _test_split(test_from: Path, output_dir: Path, parameters: Parameters) -> str:
    """The hash of the test split that is held out, after the checks that need no download."""
    manifest = read_manifest(test_from)
    if manifest["labels"] != sorted(parameters.genres):
        raise InputError(f"--test-from {test_from} is of other genres: {', '.join(manifest['labels'])}")
    if output_dir.exists() and output_dir.samefile(test_from):
        raise InputError(f"--output-dir and --test-from are both {test_from}; name another --output-dir")
    content: str = manifest["splits"]["test"]["content_sha256"]
    return content


def _read_entry(file: str, lines: int, size: int, bad_lines: list[str]) -> dict[str, Any]:
    return {"file": file, "reviews_read": lines, "bytes_read": size, "bad_lines": bad_lines}


def _sampled(parameters: Parameters, limits: Limits, folder: Path) -> dict[str, Any]:
    """Write the sampled train and test split into ``folder``; their part of the manifest."""
    samples, source = sample_genres(parameters, limits), Source(parameters.source)
    train, test = train_and_test(samples, parameters)
    report, removed = duplicates_report(train, test), []
    if parameters.drop_duplicates:
        leaked = leaked_rows(train, test)
        gone = {id(row) for row in leaked}
        train = [row for row in train if id(row) not in gone]
        removed = [row["review_id"] for row in leaked]
        log.info("--drop-duplicates: removed %d train reviews that stand in the test split", len(removed))
    splits = {"train": train, "test": test}
    return {
        "read": {
            genre: _read_entry(source.describe(genre), sample.lines, sample.bytes, sample.bad_lines)
            for genre, sample in samples.items()
        },
        "report": report,
        "removed_train_review_ids": removed,
        "splits": {name: split_entry(rows, parameters.genres) for name, rows in splits.items()},
        "files": {
            f"{name}.parquet": write_rows(folder / f"{name}.parquet", rows) for name, rows in splits.items()
        },
    }


def _everything(parameters: Parameters, limits: Limits, test_from: Path, folder: Path) -> dict[str, Any]:
    """Write all reviews that the test split of ``test_from`` does not hold, and a copy of that split."""
    test, origin = read_split(test_from, "test"), read_manifest(test_from)
    content = (test_from / "test.parquet").read_bytes()
    (folder / "test.parquet").write_bytes(content)
    held_out, labels = HeldOut(test), sorted(parameters.genres)
    # Arrow's own pool keeps more of what eight threads have freed
    pa.set_memory_pool(pa.system_memory_pool())
    source = Source(parameters.source, limits)
    genres = read_genres(
        source,
        parameters.genres,
        lambda file: write_corpus(
            file,
            parameters.head,
            held_out,
            parameters.max_bad_lines,
            labels.index(file.genre),
            folder / "train",
        ),
    )
    files = {name: entry for corpus in genres.values() for name, entry in corpus.files.items()}
    return {
        "read": {
            genre: _read_entry(source.describe(genre), corpus.lines, corpus.bytes, corpus.bad_lines)
            for genre, corpus in genres.items()
        },
        "report": {
            **{name: sum(getattr(corpus, name) for corpus in genres.values()) for name in REPORTED},
            "very_short_means_fewer_words_than": SHORT_WORDS,
            "train_reviews_also_in_test": 0,
        },
        "removed_train_review_ids": [],
        "splits": {
            "train": {
                "content_sha256": sha256_lines(entry["sha256"] for entry in files.values()),
                "genres": {genre: {"reviews": corpus.train} for genre, corpus in genres.items()},
            },
            "test": origin["splits"]["test"],
        },
        "files": {**files, "test.parquet": origin["files"]["test.parquet"]},
        "test_parameters": origin.get("test_parameters", origin["parameters"]),
    }

"""The train and test split on disk, and the manifest that vouches for it.

``train.parquet`` (or the shards ``train/*.parquet``) and ``test.parquet`` hold the columns of ``SCHEMA``;
``manifest.json`` says how they were made and what their hashes are. README, "Files", has the format.
"""

import hashlib
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.common.errors import InputError
from goodreads.common.files import read_json, sha256_file, sha256_lines
from goodreads.data.sampling import Parameters, Row

FORMAT = 1
ORDER = ("review_id", "book_id", "user_id", "genre", "label", "text", "rating")
SCHEMA = pa.schema([(name, pa.int64() if name in ("label", "rating") else pa.string()) for name in ORDER])
GROUP_ROWS = 2_048  # of one Parquet row group, held in memory
NAMES = re.compile(r"manifest\.json|(train|test)\.parquet|train/[a-z_]+-\d{5,}\.parquet")


@dataclass(frozen=True)
class Split:
    """One split in memory, rows in file order.

    Attributes:
        review_ids, book_ids, texts: one string per review.
        labels: one label id per review, an index into ``label_names``.
        label_names: genre slugs by label id.
    """

    review_ids: list[str]
    book_ids: list[str]
    texts: list[str]
    labels: list[int]
    label_names: list[str]

    def __len__(self) -> int:
        return len(self.review_ids)

    def select(self, rows: Sequence[int]) -> "Split":
        """The split of these rows."""
        ids, books, texts = ([c[i] for i in rows] for c in (self.review_ids, self.book_ids, self.texts))
        return Split(ids, books, texts, [self.labels[i] for i in rows], self.label_names)


@dataclass(frozen=True)
class ShardedSplit:
    """A train split that is read shard by shard, never as a whole.

    Attributes:
        shards: path -> SHA-256 of each Parquet file, in order.
        label_names: genre slugs by label id.
    """

    shards: dict[Path, str]
    label_names: list[str]

    @property
    def texts(self) -> Iterator[str]:
        """The texts in order, some held at a time."""
        for path in self.shards:
            with path.open("rb") as file:
                for batch in pq.ParquetFile(file).iter_batches(4_096, columns=["text"]):
                    yield from batch.column(0).to_pylist()


# reading


def read_manifest(data_dir: Path) -> dict[str, Any]:
    """The manifest of a data folder; raises InputError if it is missing, damaged or of another format."""
    path, again = data_dir / "manifest.json", Parameters().command(data_dir)
    manifest = read_json(path, again)
    with suppress(KeyError, TypeError):
        Parameters.from_json(manifest["parameters"], str(path))
        needed = [manifest[name] for name in ("labels", "read", "report", "removed_train_review_ids")]
        for name in ("train", "test"):
            needed += [manifest["splits"][name]["content_sha256"], manifest["splits"][name]["genres"]]
        if manifest["format"] == FORMAT and all(map(NAMES.fullmatch, manifest["files"])):
            return manifest
    raise InputError(f"{path} is no manifest of format {FORMAT}; make it again with: {again} --force")


def train_files(manifest: dict[str, Any]) -> list[str]:
    """Names of the train split's files: ``train.parquet``, or its shards in order."""
    return [name for name in manifest["files"] if name != "test.parquet"]


def check_files(data_dir: Path, manifest: dict[str, Any], needed: Collection[str]) -> None:
    """Check the files that are ``needed`` and, shards apart, those that are there, against the manifest.

    Raises:
        InputError: a file is missing, changed or damaged.
    """
    again = Parameters.from_json(manifest["parameters"], "the manifest").command(data_dir)
    there = {name for name in manifest["files"] if "/" not in name and (data_dir / name).is_file()}
    for name in sorted(there.union(needed)):
        path = data_dir / name
        if not path.is_file():
            raise InputError(f"{path} is missing; rebuild it with: {again}")
        if sha256_file(path) != manifest["files"][name]["sha256"]:
            problem = "is not the file its manifest describes (changed or damaged)"
            raise InputError(f"{path} {problem}; rebuild it with: {again}")


def read_split(data_dir: Path, name: str) -> Split:
    """Load the split ``train`` or ``test`` after checking every file that is there against the manifest.

    Raises:
        InputError: the manifest or the split's file is missing, or a file is changed or damaged.
    """
    manifest, path = read_manifest(data_dir), data_dir / f"{name}.parquet"
    check_files(data_dir, manifest, [path.name])
    columns = ["review_id", "book_id", "text", "label"]
    # Arrow itself opens no path that is not UTF-8
    table = pq.read_table(io.BytesIO(path.read_bytes()), schema=SCHEMA, columns=columns)
    ids, books, texts, labels = (table[column].to_pylist() for column in columns)
    return Split(ids, books, texts, labels, manifest["labels"])


def read_train(data_dir: Path) -> Split | ShardedSplit:
    """The train split after the same checks as ``read_split``: in memory, or as shards where it has some."""
    manifest = read_manifest(data_dir)
    files = train_files(manifest)
    if files == ["train.parquet"]:
        return read_split(data_dir, "train")
    check_files(data_dir, manifest, files)
    shards = {data_dir / name: manifest["files"][name]["sha256"] for name in files}
    return ShardedSplit(shards, manifest["labels"])


def carve(split: Split, per_genre: int) -> tuple[Split, Split]:
    """Take the last ``per_genre`` reviews of each genre out of a split.

    The rows of a genre stand in the random order in which they were drawn, so its last ones are a sample.

    Returns:
        What is left, and what was taken.

    Raises:
        InputError: a genre has no more reviews than that.
    """
    taken: set[int] = set()
    for label, name in enumerate(split.label_names):
        rows = [i for i, value in enumerate(split.labels) if value == label]
        if len(rows) <= per_genre:
            raise InputError(f"--validation-per-genre {per_genre} leaves {name} no training reviews")
        taken.update(rows[-per_genre:])
    return split.select([i for i in range(len(split)) if i not in taken]), split.select(sorted(taken))


# writing


def write_rows(path: Path, rows: Iterable[Row]) -> dict[str, Any]:
    """Write a Parquet file, few rows held at a time; its entry for the manifest: rows, bytes and SHA-256."""
    rows, count = iter(rows), 0
    with (
        path.open("wb") as file,
        pq.ParquetWriter(file, SCHEMA, compression="zstd", use_dictionary=["genre"]) as writer,
    ):
        while group := list(islice(rows, GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=SCHEMA))
            count += len(group)
    return {"rows": count, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def split_entry(rows: Sequence[Row], genres: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of a split: hashes of its content, and of the review_ids of each genre."""
    ids = {genre: [row["review_id"] for row in rows if row["genre"] == genre] for genre in genres}
    counts = {g: {"reviews": len(ids[g]), "review_ids_sha256": sha256_lines(ids[g])} for g in genres}
    columns = ([row[name] for row in rows] for name in ("review_id", "label", "text"))
    return {"content_sha256": content_sha256(*columns), "genres": counts}


def content_sha256(review_ids: Sequence[str], labels: Sequence[int], texts: Sequence[str]) -> str:
    """A hash of what a split says, whatever file it stands in: ids, labels and the hash of each text."""
    hashes = (hashlib.sha256(text.encode()).hexdigest() for text in texts)
    return sha256_lines(map("{}\t{}\t{}".format, review_ids, labels, hashes))


def own_files(folder: Path) -> set[str]:
    """Names of the files of an earlier split, which a new one replaces.

    Those are what a manifest names or, where there is none or a damaged one, what has a split's columns.

    Raises:
        InputError: a file with such a name is somebody else's.
    """
    paths = [*folder.iterdir(), *folder.glob("train/*")]
    names = {name for path in paths if NAMES.fullmatch(name := path.relative_to(folder).as_posix())}
    try:
        own = {"manifest.json", *read_manifest(folder)["files"]}
    except InputError:
        own = {name for name in names if _has_a_splits_columns(folder / name)}
        own |= {"manifest.json"} if own else set()
    if foreign := sorted(names - own):
        advice = "and data_loader.py did not make it; move it away, or name another --output-dir"
        raise InputError(f"{folder / foreign[0]} is in the way, {advice}")
    return own


def _has_a_splits_columns(path: Path) -> bool:
    with suppress(OSError, pa.ArrowException), path.open("rb") as file:
        return bool(pq.read_schema(file).equals(SCHEMA))
    return False


def stands_in(review_ids: Iterable[str], texts: Iterable[str]) -> Callable[[Row], bool]:
    """A function that says whether a row is one of these reviews, by its id or, unless blank, its text."""
    ids, known = set(review_ids), {text for text in texts if text.strip()}
    return lambda row: row["review_id"] in ids or row["text"] in known

"""The train and test split on disk, and the manifest that vouches for it.

``train.parquet`` (or the shards ``train/*.parquet``) and ``test.parquet`` hold the columns of ``SCHEMA``;
``manifest.json`` says how they were made and what their hashes are. README, "Files", has the format.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.common.errors import InputError
from goodreads.common.files import read_json, sha256_file, sha256_lines
from goodreads.data.sampling import Parameters, Row

FORMAT = 1
NUMBERS = ("label", "rating")
ORDER = ("review_id", "book_id", "user_id", "genre", "label", "text", "rating")
SCHEMA = pa.schema([(name, pa.int64() if name in NUMBERS else pa.string()) for name in ORDER])
SHORT_WORDS = 3  # a text with fewer words is reported as very short
NAMES = re.compile(r"(train|test)\.parquet|train/[a-z_]+-\d{5,}\.parquet")
Entry = dict[str, Any]  # rows, bytes and SHA-256 of a file


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
    if manifest.get("format") != FORMAT:
        raise InputError(f"{path} is not of format {FORMAT}; make it again with: {again} --force")
    try:
        Parameters.from_json(manifest["parameters"], str(path))
        files, splits, genres = manifest["files"], manifest["splits"], {*manifest["read"]}
        strings = [*manifest["labels"], *(entry["sha256"] for entry in files.values())]
        strings += [splits[name]["content_sha256"] for name in ("train", "test")]
        usable = "test.parquet" in files and len(files) > 1 and all(map(NAMES.fullmatch, files))
        usable &= all(isinstance(text, str) for text in strings)
        usable &= all({*splits[name]["genres"]} == genres for name in ("train", "test"))
        usable &= isinstance(manifest["report"], dict)
        usable &= isinstance(manifest["removed_train_review_ids"], list)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is incomplete ({error}); make it again with: {again} --force") from error
    if not usable:
        raise InputError(f"{path} describes no split; make it again with: {again} --force")
    return manifest


def train_files(manifest: dict[str, Any]) -> list[str]:
    """Names of the train split's files: ``train.parquet``, or its shards in order."""
    return [name for name in manifest["files"] if name != "test.parquet"]


def damaged_file(
    data_dir: Path, manifest: dict[str, Any], needed: Collection[str] | None = None
) -> str | None:
    """The first split file that is not what the manifest says, with the reason, or None.

    Args:
        data_dir, manifest: the folder and its manifest.
        needed: the files that must be there; all of them if None. Shards that are not needed are passed over.
    """
    for name, entry in manifest["files"].items():
        path = data_dir / name
        if needed is not None and name not in needed and (name.startswith("train/") or not path.is_file()):
            continue
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != entry["bytes"] or sha256_file(path) != entry["sha256"]:
            return f"{path} is not the file its manifest describes (changed or damaged)"
    return None


def _checked(data_dir: Path, name: str) -> tuple[dict[str, Any], list[str]]:
    """The manifest, and the names of a split's files, once what is there has been checked against it."""
    manifest = read_manifest(data_dir)
    files = train_files(manifest) if name == "train" else ["test.parquet"]
    if problem := damaged_file(data_dir, manifest, files):
        again = Parameters.from_json(manifest["parameters"], "the manifest").command(data_dir)
        raise InputError(f"{problem}; rebuild it with: {again}")
    return manifest, files


def read_split(data_dir: Path, name: str) -> Split:
    """Load the split ``train`` or ``test`` after checking every file that is there against the manifest.

    Raises:
        InputError: the manifest or the split's file is missing, or a file is changed or damaged.
    """
    manifest, files = _checked(data_dir, name)
    wanted, tables = ["review_id", "book_id", "text", "label"], []
    for path in (data_dir / file for file in files):
        with path.open("rb") as file:  # Arrow itself opens no path that is not UTF-8
            tables.append(pq.read_table(file, schema=SCHEMA, columns=wanted))
    ids, books, texts, labels = (pa.concat_tables(tables)[column].to_pylist() for column in wanted)
    return Split(ids, books, texts, labels, manifest["labels"])


def read_train(data_dir: Path) -> Split | ShardedSplit:
    """The train split after the same checks as ``read_split``: in memory, or as shards where it has some."""
    if train_files(read_manifest(data_dir)) == ["train.parquet"]:
        return read_split(data_dir, "train")
    manifest, files = _checked(data_dir, "train")
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


def write_rows(path: Path, rows: list[Row]) -> Entry:
    """Write a Parquet file of the rows; its entry for the manifest."""
    with path.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file, compression="zstd")
    return file_entry(path, len(rows))


def file_entry(path: Path, rows: int) -> Entry:
    """What the manifest says of a file."""
    return {"rows": rows, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def split_entry(rows: Sequence[Row], genres: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of a split: hashes of its content, and of the review_ids of each genre."""
    ids: dict[str, list[str]] = {genre: [] for genre in genres}
    for row in rows:
        ids[row["genre"]].append(row["review_id"])
    counts = {g: {"reviews": len(ids[g]), "review_ids_sha256": sha256_lines(ids[g])} for g in genres}
    columns = ([row[name] for row in rows] for name in ("review_id", "label", "text"))
    return {"content_sha256": content_sha256(*columns), "genres": counts}


def content_sha256(review_ids: Sequence[str], labels: Sequence[int], texts: Sequence[str]) -> str:
    """A hash of what a split says, whatever file it stands in: ids, labels and the hash of each text."""
    rows = zip(review_ids, labels, texts, strict=True)
    return sha256_lines(
        f"{i}\t{label}\t{hashlib.sha256(text.encode()).hexdigest()}" for i, label, text in rows
    )


def foreign_and_own_files(folder: Path) -> tuple[set[str], set[str]]:
    """Names of the files that stand in the way of a split: those of others, and those of an earlier split.

    The latter are what a manifest names or, where there is none or a damaged one, what has a split's columns.
    """
    paths = [folder / "manifest.json", *folder.glob("*.parquet"), *(folder / "train").glob("*.parquet")]
    names = {path.relative_to(folder).as_posix() for path in paths if path.exists()}
    names = {name for name in names if name == "manifest.json" or NAMES.fullmatch(name)}
    try:
        own = {"manifest.json", *read_manifest(folder)["files"]}
    except InputError:
        own = {name for name in names if name != "manifest.json" and _has_schema(folder / name)}
        own |= {"manifest.json"} if own else set()
    return names - own, own


def _has_schema(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return bool(pq.read_schema(file).equals(SCHEMA))
    except (OSError, pa.ArrowException):
        return False


# what a careful reader would ask before trusting a figure made with the split


def duplicates_report(train: Sequence[Row], test: Sequence[Row]) -> dict[str, Any]:
    """Figures of the manifest's ``report``; each counts reviews unless it says otherwise.

    Duplicates are exact and leave empty texts out, which have a count of their own.
    """
    rows = [*train, *test]
    texts = Counter(row["text"] for row in rows if row["text"].strip())
    leaked = [row["review_id"] for row in leaked_rows(train, test)]
    return {
        "empty_texts": sum(not row["text"].strip() for row in rows),
        "very_short_texts": sum(0 < len(row["text"].split()) < SHORT_WORDS for row in rows),
        "very_short_means_fewer_words_than": SHORT_WORDS,
        "exact_duplicate_texts": sum(n for n in texts.values() if n > 1),
        "review_ids_in_several_genres": _in_several_genres(rows, "review_id"),
        "book_ids_in_several_genres": _in_several_genres(rows, "book_id"),
        "book_ids_in_train_and_test": len({r["book_id"] for r in train} & {r["book_id"] for r in test}),
        "train_reviews_also_in_test": len(leaked),
        "train_review_ids_also_in_test": leaked,
    }


def _in_several_genres(rows: Sequence[Row], column: str) -> int:
    pairs = {(row[column], row["genre"]) for row in rows}
    return sum(n > 1 for n in Counter(value for value, _ in pairs).values())


def leaked_rows(train: Sequence[Row], test: Sequence[Row]) -> list[Row]:
    """The train rows whose review_id or text (unless blank) also stands in the test split."""
    ids = {row["review_id"] for row in test}
    texts = {row["text"] for row in test if row["text"].strip()}
    return [row for row in train if row["review_id"] in ids or row["text"] in texts]

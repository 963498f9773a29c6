"""The train and test split on disk, and the manifest that vouches for it.

``train.parquet`` (or the shards ``train/*.parquet``) and ``test.parquet`` hold review_id, book_id, user_id,
genre, label, text, rating; ``manifest.json`` says how they were made and what their hashes are. Nothing
here writes them: that is data_loader.py's. README, "Files", has the format.
"""

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.common.errors import InputError
from goodreads.common.files import read_json, sha256_file

FORMAT = 1
KEYS = ("parameters", "labels", "read", "report", "removed_train_review_ids", "splits", "files")
SCHEMA = pa.schema(
    [
        ("review_id", pa.string()),
        ("book_id", pa.string()),
        ("user_id", pa.string()),
        ("genre", pa.string()),
        ("label", pa.int64()),
        ("text", pa.string()),
        ("rating", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Split:
    """One split in memory, rows in file order.

    Attributes:
        review_ids, texts: one string per review.
        labels: one label id per review, an index into ``label_names``.
        label_names: genre slugs by label id.
    """

    review_ids: list[str]
    texts: list[str]
    labels: list[int]
    label_names: list[str]

    def __len__(self) -> int:
        return len(self.review_ids)


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
            for batch in pq.ParquetFile(path).iter_batches(4_096, columns=["text"]):
                yield from batch.column(0).to_pylist()


def read_manifest(data_dir: Path) -> dict[str, Any]:
    """The manifest of a data folder; raises InputError if it is missing, damaged or of another format."""
    manifest = read_json(data_dir / "manifest.json", f"python data_loader.py --output-dir {data_dir}")
    if manifest.get("format") != FORMAT:
        raise InputError(
            f"{data_dir / 'manifest.json'} is not of format {FORMAT}; run data_loader.py --force"
        )
    if missing := [key for key in KEYS if key not in manifest]:
        raise InputError(f"{data_dir / 'manifest.json'} has no {missing[0]}; run data_loader.py --force")
    files = manifest["files"]
    if not isinstance(files, dict) or "test.parquet" not in files or not train_files(manifest):
        raise InputError(f"{data_dir / 'manifest.json'} names other files; run data_loader.py --force")
    return manifest


def train_files(manifest: dict[str, Any]) -> list[str]:
    """Names of the train split's files: ``train.parquet``, or its shards in order."""
    return [name for name in manifest["files"] if name == "train.parquet" or name.startswith("train/")]


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
        raise InputError(f"{problem}; rebuild it with: python data_loader.py --output-dir {data_dir}")
    return manifest, files


def read_split(data_dir: Path, name: str) -> Split:
    """Load the split ``train`` or ``test`` after checking every file that is there against the manifest.

    Raises:
        InputError: the manifest or the split's file is missing, or a file is changed or damaged.
    """
    manifest, files = _checked(data_dir, name)
    wanted = ["review_id", "text", "label"]
    table = pa.concat_tables(pq.read_table(data_dir / file, schema=SCHEMA, columns=wanted) for file in files)
    columns = {column: table[column].to_pylist() for column in wanted}
    return Split(columns["review_id"], columns["text"], columns["label"], manifest["labels"])


def read_train(data_dir: Path) -> Split | ShardedSplit:
    """The train split after the same checks as ``read_split``: in memory, or as shards where it has some."""
    if train_files(read_manifest(data_dir)) == ["train.parquet"]:
        return read_split(data_dir, "train")
    manifest, files = _checked(data_dir, "train")
    return ShardedSplit(
        {data_dir / name: manifest["files"][name]["sha256"] for name in files}, manifest["labels"]
    )


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
    return _rows(split, [i for i in range(len(split)) if i not in taken]), _rows(split, sorted(taken))


def _rows(split: Split, rows: Sequence[int]) -> Split:
    return Split(
        [split.review_ids[i] for i in rows],
        [split.texts[i] for i in rows],
        [split.labels[i] for i in rows],
        split.label_names,
    )


def content_sha256(review_ids: Sequence[str], labels: Sequence[int], texts: Sequence[str]) -> str:
    """A hash of what a split says, whatever file it stands in: ids, labels and the hash of each text."""
    digest = hashlib.sha256()
    for review_id, label, text in zip(review_ids, labels, texts, strict=True):
        text_hash = hashlib.sha256(text.encode()).hexdigest()
        digest.update(f"{review_id}\t{label}\t{text_hash}\n".encode())
    return digest.hexdigest()

"""All reviews of a genre that the test split does not hold, as Parquet shards that ``datasets`` streams.

A genre's shards are ``train/<genre>-00000.parquet`` and on, of ``SHARD_ROWS`` rows each. Beside them
``train/.<genre>.json`` says, until all genres are done, which shards are whole and how many lines they took:
an interrupted run goes on from there.
"""

from collections.abc import Collection, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from goodreads.common.errors import InputError
from goodreads.common.files import atomic_path, read_json, sha256_file, write_json
from goodreads.common.progress import Progress, log
from goodreads.data.data_report import SHORT_WORDS
from goodreads.data.reading import BadLines
from goodreads.data.review_files import Stream
from goodreads.data.split_store import SCHEMA

SHARD_ROWS = 100_000
GROUP_ROWS = 2_048  # rows held in memory, and of one Parquet row group
REPORTED = ("empty_texts", "very_short_texts", "held_out_by_review_id", "held_out_by_text")


@dataclass(frozen=True)
class HeldOut:
    """What must not stand in the training data: review_ids and texts of the test split, no blank ones."""

    review_ids: frozenset[str]
    texts: frozenset[str]

    @classmethod
    def of(cls, review_ids: Collection[str], texts: Collection[str]) -> Self:
        """Of a test split's columns."""
        return cls(frozenset(review_ids), frozenset(text for text in texts if text.strip()))


@dataclass
class State:
    """How far a genre has come, at the end of a shard.

    Attributes:
        key: what decides the shards; another key makes these worthless.
        version: what the server called the file.
        files: name -> rows, bytes and SHA-256 of each whole shard, in order.
        lines, bytes: lines and compressed bytes read.
        counts: reviews by what became of them.
        bad_lines: messages on the lines that are no reviews.
        done: the genre has no more.
    """

    key: dict[str, Any]
    version: str = ""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: int = 0
    bytes: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("train", *REPORTED), 0))
    bad_lines: list[str] = field(default_factory=list)
    done: bool = False


class Shards:
    """One genre's shards below ``folder``, as far as they are written.

    Attributes:
        state: at the end of the last whole shard.
    """

    def __init__(self, folder: Path, genre: str, label: int, key: Mapping[str, Any]) -> None:
        """Take up what a run with the same ``key`` left; anything else of this genre is removed.

        Raises:
            InputError: the folder cannot be written.
        """
        self._folder, self._genre, self._label = folder, genre, label
        self._path = folder / "train" / f".{genre}.json"
        self.state = self._left_behind(dict(key)) or State(dict(key))
        self._remove_others()

    def _left_behind(self, key: dict[str, Any]) -> State | None:
        if not self._path.exists():
            return None
        try:
            state = State(**read_json(self._path, "running again"))
            files = [(self._folder / name, entry["sha256"]) for name, entry in state.files.items()]
            fits = state.key == key and all(p.is_file() and sha256_file(p) == wanted for p, wanted in files)
        except (InputError, TypeError, KeyError, AttributeError):
            fits = False
        if not fits:
            log.warning("%s: shards of another or a damaged run are written anew", self._genre)
            return None
        log.info("%s: going on after %d whole shards", self._genre, len(state.files))
        return state

    def _remove_others(self) -> None:
        keep = {self._folder / name for name in self.state.files}
        for pattern in (f"{self._genre}-*.parquet", f".{self._genre}-*.tmp"):
            for path in self._path.parent.glob(pattern):
                if path not in keep:
                    path.unlink()

    def fill(
        self, stream: Stream, limit: int | None, held_out: HeldOut, bad: BadLines, progress: Progress
    ) -> None:
        """Read the first ``limit`` lines (None: all) and write the reviews that are not held out.

        Lines that earlier shards took are read again (gzip has no other way) and passed over.

        Raises:
            InputError: as ``Stream.blocks``; a line is not a review; a shard cannot be written.
        """
        if self.state.done:
            return
        count = 0
        with closing(stream.blocks()) as blocks, ExitStack() as self._open:
            for block in blocks:
                if not count:
                    self._begin(stream, bad)
                lines = block.lines()
                if limit is not None:
                    lines = lines[: limit - count]
                first = max(0, self.state.lines - count)
                self._add(lines[first:], count + first, stream, held_out, bad)
                count += len(lines)
                progress.update(len(lines))
                if count == limit:
                    break
            if not count:
                self._begin(stream, bad)
            self._flush()
            self._finish_shard(count, stream, bad, done=True)

    def _begin(self, stream: Stream, bad: BadLines) -> None:
        if self.state.lines and stream.version != self.state.version:
            log.warning("%s changed since it was read; its shards are written anew", stream.name)
            self.state = State(self.state.key)
            self._remove_others()
        bad.problems = self.state.bad_lines.copy()
        self._counts = self.state.counts.copy()
        self._rows: list[tuple[Any, ...]] = []
        self._writer: pq.ParquetWriter | None = None
        self._written = 0

    def _add(self, lines: list[bytes], start: int, stream: Stream, held_out: HeldOut, bad: BadLines) -> None:
        counts, rows, name = self._counts, self._rows, stream.name
        ids, texts = held_out.review_ids, held_out.texts
        for index, line in enumerate(lines, start):
            review = bad.parse(line, name, index)
            if review is None:
                continue
            review_id, book_id, user_id, text, rating = review.values()
            if review_id in ids:
                counts["held_out_by_review_id"] += 1
            elif text in texts:
                counts["held_out_by_text"] += 1
            else:
                words = len(text.split(None, SHORT_WORDS - 1))
                if words < SHORT_WORDS:
                    counts["very_short_texts" if words else "empty_texts"] += 1
                rows.append((review_id, book_id, user_id, text, rating))
                if len(rows) == GROUP_ROWS:
                    self._flush()
                    if self._written >= SHARD_ROWS:
                        self._finish_shard(index + 1, stream, bad)

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._writer is None:
            self._name = f"train/{self._genre}-{len(self.state.files):05d}.parquet"
            temporary = self._open.enter_context(atomic_path(self._folder / self._name))
            writer = pq.ParquetWriter(temporary, SCHEMA, compression="zstd", use_dictionary=["genre"])
            self._writer = self._open.enter_context(writer)
        review_id, book_id, user_id, text, rating = map(list, zip(*self._rows, strict=True))
        same = {"genre": self._genre, "label": self._label}
        columns = {
            "review_id": review_id,
            "book_id": book_id,
            "user_id": user_id,
            "text": text,
            "rating": rating,
        }
        columns |= {name: [value] * len(text) for name, value in same.items()}
        self._writer.write_table(pa.table(columns, schema=SCHEMA))
        self._written += len(text)
        self._counts["train"] += len(text)
        self._rows.clear()

    def _finish_shard(self, lines: int, stream: Stream, bad: BadLines, done: bool = False) -> None:
        """Close the shard that is open, if one is, and write down that it is whole."""
        files = dict(self.state.files)
        if self._writer is not None:
            self._open.close()
            path = self._folder / self._name
            files[self._name] = {
                "rows": self._written, "bytes": path.stat().st_size, "sha256": sha256_file(path)
            }  # fmt: skip
        self._writer, self._written = None, 0
        self.state = State(
            self.state.key, stream.version, files, lines, stream.bytes, self._counts.copy(),
            bad.problems.copy(), done,
        )  # fmt: skip
        write_json(self._path, asdict(self.state))


def forget_progress(folder: Path) -> None:
    """Remove the notes of interrupted runs."""
    for path in (folder / "train").glob(".*.json"):
        path.unlink()


def remove_others(folder: Path, files: Collection[str]) -> None:
    """Remove what else stands in the folder of an earlier split, and the notes of this run."""
    forget_progress(folder)
    for path in [folder / "train.parquet", *(folder / "train").glob("*-[0-9][0-9][0-9][0-9][0-9].parquet")]:
        if path.relative_to(folder).as_posix() not in files:
            path.unlink(missing_ok=True)
    with suppress(OSError):
        (folder / "train").rmdir()  # only where nothing is left

"""The index beside a source's shards: where every member of every sample is, and what it is."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.data.head import HEAD, VERSION, WINDOWS, Head, Shard, read_head
from orchestrator.data.table import (
    BUCKET,
    SCHEMA,
    TABLE,
    has_windows,
    read_table,
    table_bytes,
    table_digest,
    table_of,
)
from orchestrator.errors import UserError
from orchestrator.storage.store import Store, open_store

__all__ = [
    "HEAD",
    "TABLE",
    "Bucket",
    "Index",
    "Member",
    "Sample",
    "Shard",
    "WrittenShard",
    "write_index",
]

Bucket = tuple[int, int, int]  # frames, height, width


@dataclass(frozen=True)
class Member:
    """One file of a sample inside its shard; offset and size in bytes."""

    ext: str
    offset: int
    size: int
    xxh64: str


@dataclass(frozen=True)
class Sample:
    """One clip as the index knows it.

    ``bucket`` and ``fps`` are what training sees of it, ``stored`` and ``stored_fps`` what the
    shard holds. ``duration_s`` is of the stored frames; ``start_s`` and ``end_s`` are in the
    ``original`` that it was cut from, all three None where it was not.
    """

    key: str
    shard: str
    bucket: Bucket
    fps: float
    stored: Bucket
    stored_fps: float
    captions: tuple[str, ...]
    labels: dict[str, Any]
    members: tuple[Member, ...]
    duration_s: float
    original: str | None
    start_s: float | None
    end_s: float | None

    @property
    def is_windowed(self) -> bool:
        """Whether training sees something else than all that is stored."""
        return (self.bucket, self.fps) != (self.stored, self.stored_fps)


@dataclass(frozen=True)
class WrittenShard:
    """A shard that is written, and one dictionary of SCHEMA per sample in it."""

    shard: Shard
    rows: list[dict[str, Any]]


class Index:
    """The samples of one source, in the order in which they were written.

    ``store`` is where the shards lie; the index itself may be elsewhere.
    """

    def __init__(self, store: Store, *, table: pa.Table, head: Head) -> None:
        self.store = store
        self._table = table
        self._columns = {name: table[name].combine_chunks() for name in SCHEMA.names}
        self._head = head

    @classmethod
    def open(cls, uri: str) -> "Index":
        """Reads the index at a source's folder; whether the shards are there is not looked at.

        Raises:
            UserError: if there is no index, or it is damaged or of another version.
        """
        store = open_store(uri)
        head = read_head(store)
        table = read_table(store, samples=head.samples)
        return cls(store if head.base is None else open_store(head.base), table=table, head=head)

    def check_shards(self) -> None:
        """Lists the folder of the shards, once.

        Raises:
            UserError: if a shard is missing.
        """
        missing = sorted(set(self.shards) - set(self.store.list("")))
        if missing:
            raise UserError(
                f"{self.store.uri}/{missing[0]}: the shard is missing, wanted all "
                f"{len(self.shards)} shards of the index ({len(missing)} missing)"
            )

    @property
    def digest(self) -> str:
        """Sha256 over every key, caption and member hash, and over cuts and buckets."""
        return self._head.digest

    @property
    def origin(self) -> dict[str, Any]:
        """What the shards were made from, as their writer said."""
        return self._head.origin

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards, in order."""
        return tuple(shard.name for shard in self._head.shards)

    @property
    def hashes(self) -> dict[str, str]:
        """Xxh64 of whole shards by name, of those that it is known of."""
        return {one.name: one.xxh64 for one in self._head.shards if one.xxh64 is not None}

    @property
    def table(self) -> pa.Table:
        """All rows."""
        return self._table

    @property
    def head(self) -> Head:
        """What ``index.json`` says."""
        return self._head

    @property
    def buckets(self) -> dict[Bucket, list[int]]:
        """Rows of every (frames, height, width) that training sees, in order."""
        sides = [
            pc.call_function(
                "coalesce", [self._columns[f"bucket_{name}"], self._columns[name]]
            ).to_pylist()
            for name in ("frames", "height", "width")
        ]
        rows: dict[Bucket, list[int]] = {}
        for row, bucket in enumerate(zip(*sides, strict=True)):
            rows.setdefault(bucket, []).append(row)
        return rows

    def keys(self, rows: Sequence[int]) -> list[str]:
        """Keys of the samples in rows; shards may share keys."""
        return self._columns["key"].take(pa.array(rows, pa.int64())).to_pylist()

    @property
    def durations_s(self) -> NDArray[np.float64]:
        """Stored frames over frames per second of every row, [N]."""
        return self._columns["frames"].to_numpy() / self._columns["fps"].to_numpy()

    @property
    def windowed(self) -> int:
        """Samples of which training sees something else than all that is stored."""
        apart = np.zeros(len(self), np.bool_)
        for name in BUCKET:
            seen = self._columns[name].to_numpy(zero_copy_only=False)  # nan where it is null
            apart |= ~np.isnan(seen) & (
                seen != self._columns[name.removeprefix("bucket_")].to_numpy()
            )
        return int(apart.sum())

    @property
    def wordings(self) -> Counter[int]:
        """How many samples have so many captions."""
        lengths = self._columns["captions"].value_lengths().to_numpy(zero_copy_only=False)
        return Counter(lengths.tolist())

    @property
    def uncaptioned(self) -> int:
        """Samples that have no caption."""
        return self.wordings[0]

    def __len__(self) -> int:
        return self._table.num_rows

    def sample(self, row: int) -> Sample:
        """The sample in a row."""
        return _sample({name: column[row].as_py() for name, column in self._columns.items()})

    def rows_of(self, shard: str) -> list[int]:
        """The rows of a shard's samples, in order; none if it holds no sample."""
        return self._rows_by_shard.get(shard, [])

    def of_shard(self, shard: str) -> list[Sample]:
        """The samples in a shard, in order."""
        return [_sample(row) for row in self._table.take(self.rows_of(shard)).to_pylist()]

    @cached_property
    def _rows_by_shard(self) -> dict[str, list[int]]:
        coded = self._columns["shard"].dictionary_encode()
        codes = coded.indices.to_numpy()
        order = np.argsort(codes, kind="stable")
        names = coded.dictionary.to_pylist()
        bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
        return {
            name: order[bounds[code] : bounds[code + 1]].tolist() for code, name in enumerate(names)
        }


def write_index(
    store: Store,
    written: Iterable[WrittenShard],
    *,
    origin: dict[str, Any],
    base: str | None = None,
) -> str:
    """Writes the table, then the head that makes the source exist; returns the digest.

    Args:
        store: the source's folder.
        written: its shards, as ``shards.write_shard`` returns them; those without samples are
            left out.
        origin: JSON that says what the shards were made from.
        base: URI of the folder with the shards; None if they are in the source's.
    """
    filled = [one for one in written if one.rows]
    table = table_of([row for one in filled for row in one.rows])
    head = Head(
        version=WINDOWS if has_windows(table) else VERSION,
        digest=table_digest(table),
        samples=table.num_rows,
        shards=tuple(one.shard for one in filled),
        base=base,
        origin=origin,
    )
    store.put(TABLE, table_bytes(table))
    store.put(HEAD, head.model_dump_json(indent=1).encode())
    return head.digest


def _sample(row: dict[str, Any]) -> Sample:
    stored = (row["frames"], row["height"], row["width"])
    seen = (row["bucket_frames"], row["bucket_height"], row["bucket_width"])
    is_whole = row["bucket_frames"] is None
    return Sample(
        key=row["key"],
        shard=row["shard"],
        bucket=stored if is_whole else seen,
        fps=row["fps"] if is_whole else row["bucket_fps"],
        stored=stored,
        stored_fps=row["fps"],
        captions=tuple(row["captions"]),
        labels=json.loads(row["labels"]),
        members=tuple(Member(**member) for member in row["members"]),
        duration_s=row["frames"] / row["fps"],
        original=row["original"],
        start_s=row["start_s"],
        end_s=row["end_s"],
    )

"""The index beside a source's shards: where every member of every sample is, and what it is."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from orchestrator.data.head import (
    HEAD,
    VERSION,
    WINDOWS,
    Head,
    Shard,
    missing_shards,
    read_head,
    shards_of,
    told_missing,
)
from orchestrator.data.rows import Bucket, Member, Rows, Sample
from orchestrator.data.table import (
    BUCKET,
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
        self._rows = Rows(table)
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
        return cls(shards_of(head, store=store), table=table, head=head)

    def check_shards(self) -> None:
        """Lists the folder of the shards, once.

        Raises:
            UserError: if a shard is missing.
        """
        missing = missing_shards(self._head, shards=self.store)
        if missing:
            raise UserError(told_missing(self._head, missing, shards=self.store))

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
    def sizes(self) -> dict[str, int]:
        """Bytes of whole shards by name, of those that it is known of."""
        return {one.name: one.bytes for one in self._head.shards if one.bytes is not None}

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
        frames, height, width = (
            pc.call_function("coalesce", [self._table[f"bucket_{name}"], self._table[name]])
            .to_numpy()
            .astype(np.int64)
            for name in ("frames", "height", "width")
        )
        sizes, size = np.unique((height << 32) + width, return_inverse=True)
        shapes, first, shape = np.unique(
            frames * len(sizes) + size, return_index=True, return_inverse=True
        )
        rows = _grouped(shape, groups=len(shapes))
        return {
            (int(frames[row]), int(height[row]), int(width[row])): rows[shape[row]]
            for row in np.sort(first)
        }

    def keys(self, rows: Sequence[int]) -> list[str]:
        """Keys of the samples in rows; shards may share keys."""
        return self._table["key"].take(pa.array(rows, pa.int64())).to_pylist()

    def shard_sizes(self, rows: Sequence[int]) -> list[int]:
        """How many of the rows, in their order, lie in one shard after another."""
        shards = self._table["shard"].take(pa.array(rows, pa.int64())).combine_chunks()
        codes = shards.dictionary_encode().indices.to_numpy()
        ends = np.append(np.flatnonzero(np.diff(codes)) + 1, len(codes))
        return np.diff(ends, prepend=0).tolist()

    @property
    def durations_s(self) -> NDArray[np.float64]:
        """Stored frames over frames per second of every row, [N]."""
        return self._table["frames"].to_numpy() / self._table["fps"].to_numpy()

    @property
    def windowed(self) -> int:
        """Samples of which training sees something else than all that is stored."""
        apart = np.zeros(len(self), np.bool_)
        for name in BUCKET:
            seen = self._table[name].to_numpy()  # nan where it is null
            stored = self._table[name.removeprefix("bucket_")].to_numpy()
            apart |= ~np.isnan(seen) & (seen != stored)
        return int(apart.sum())

    @property
    def extensions(self) -> set[str]:
        """Of all members."""
        return self._rows.extensions

    @property
    def wordings(self) -> Counter[int]:
        """How many samples have so many captions."""
        lengths = pc.call_function("list_value_length", [self._table["captions"]])
        return Counter(lengths.to_pylist())

    @property
    def uncaptioned(self) -> int:
        """Samples that have no caption."""
        return self.wordings[0]

    def __len__(self) -> int:
        return self._table.num_rows

    def sample(self, row: int) -> Sample:
        """The sample in a row."""
        return self._rows[row]

    def shard(self, row: int) -> str:
        """The shard that a row's sample is in."""
        return self._rows.shard(row)

    def rows_of(self, shard: str) -> list[int]:
        """The rows of a shard's samples, in order; none if it holds no sample."""
        return self._rows_by_shard.get(shard, [])

    def of_shard(self, shard: str) -> list[Sample]:
        """The samples in a shard, in order."""
        return [self._rows[row] for row in self.rows_of(shard)]

    @cached_property
    def _rows_by_shard(self) -> dict[str, list[int]]:
        coded = self._table["shard"].dictionary_encode().unify_dictionaries().combine_chunks()
        names = coded.dictionary.to_pylist()
        rows = _grouped(coded.indices.to_numpy(), groups=len(names))
        return dict(zip(names, rows, strict=True))


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
        origin: JSON that says what the shards were made from; IF_LOST in it is told with a shard
            that is missing.
        base: the folder with the shards, as ``Head`` has it; None if they are in the source's.
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


def _grouped(codes: NDArray[np.int64], *, groups: int) -> list[list[int]]:
    """Places of each code, in order."""
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(groups + 1))
    return [order[bounds[one] : bounds[one + 1]].tolist() for one in range(groups)]

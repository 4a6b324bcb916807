"""The index beside a source's shards: where every member of every sample is, and what it is."""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.errors import UserError
from orchestrator.storage.store import Store, open_store

TABLE = "index.parquet"
HEAD = "index.json"  # written last: a source without it is not finished
VERSION = 1

Bucket = tuple[int, int, int]  # frames, height, width

_MEMBER = pa.struct(
    [("ext", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("xxh64", pa.string())]
)
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("frames", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("fps", pa.float64()),
        ("source", pa.string()),
        ("captions", pa.list_(pa.string())),
        ("labels", pa.string()),  # JSON
        ("members", pa.list_(_MEMBER)),
    ]
)


@dataclass(frozen=True)
class Member:
    """One file of a sample inside its shard; offset and size in bytes."""

    ext: str
    offset: int
    size: int
    xxh64: str


@dataclass(frozen=True)
class Sample:
    """One clip as the index knows it."""

    key: str
    shard: str
    bucket: Bucket
    fps: float
    captions: tuple[str, ...]
    labels: dict[str, Any]
    members: tuple[Member, ...]


class Index:
    """The samples of one source, in the order in which they were written."""

    def __init__(self, store: Store, *, table: pa.Table, head: dict[str, Any]) -> None:
        self.store = store
        self._table = table
        self._head = head

    @classmethod
    def open(cls, uri: str) -> "Index":
        """Reads the index at a source's folder and checks that its shards are there.

        Raises:
            UserError: if there is no index, it is of another version, or a shard is missing.
        """
        store = open_store(uri)
        if not store.exists(HEAD):
            raise UserError(f"{uri}: no {HEAD} there, wanted a folder of indexed shards")
        head = json.loads(store.get(HEAD))
        if head.get("version") != VERSION:
            raise UserError(f"{uri}/{HEAD}: version={head.get('version')}, wanted {VERSION}")
        there = set(store.list(""))
        missing = sorted(set(head["shards"]) - there)
        if missing:
            raise UserError(
                f"{uri}/{missing[0]}: the shard is missing, wanted all {len(head['shards'])} "
                f"shards of the index ({len(missing)} missing)"
            )
        table = pq.read_table(io.BytesIO(store.get(TABLE)), schema=SCHEMA)
        return cls(store, table=table, head=head)

    @property
    def digest(self) -> str:
        """Sha256 over every key, caption and member hash."""
        return self._head["digest"]

    @property
    def origin(self) -> dict[str, Any]:
        """What the shards were made from, as their writer said."""
        return self._head["origin"]

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards, in order."""
        return tuple(self._head["shards"])

    @property
    def buckets(self) -> dict[Bucket, list[int]]:
        """Rows of every (frames, height, width), in order."""
        sides = [self._table.column(name).to_pylist() for name in ("frames", "height", "width")]
        rows: dict[Bucket, list[int]] = {}
        for row, bucket in enumerate(zip(*sides, strict=True)):
            rows.setdefault(bucket, []).append(row)
        return rows

    def __len__(self) -> int:
        return self._table.num_rows

    def sample(self, row: int) -> Sample:
        """The sample in a row."""
        return _sample({name: self._table.column(name)[row].as_py() for name in SCHEMA.names})

    def of_shard(self, shard: str) -> list[Sample]:
        """The samples in a shard, in order."""
        rows = self._table.filter(pc.equal(self._table.column("shard"), shard))
        return [_sample(row) for row in rows.to_pylist()]


def write_index(store: Store, rows: Iterable[dict[str, Any]], *, origin: dict[str, Any]) -> str:
    """Writes the table, then the head that makes the source exist; returns the digest.

    Args:
        store: the source's folder.
        rows: dictionaries of SCHEMA, as ``shards.write_shard`` returns them.
        origin: JSON that says what the shards were made from.
    """
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    digest = _digest(table)
    head = {
        "version": VERSION,
        "digest": digest,
        "samples": table.num_rows,
        "shards": pc.unique(table.column("shard")).to_pylist(),
        "origin": origin,
    }
    store.put(TABLE, buffer.getvalue())
    store.put(HEAD, json.dumps(head, indent=1).encode())
    return digest


def _digest(table: pa.Table) -> str:
    digest = hashlib.sha256()
    for name in ("key", "captions", "members"):
        digest.update(json.dumps(table.column(name).to_pylist(), sort_keys=True).encode())
    return digest.hexdigest()


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(
        key=row["key"],
        shard=row["shard"],
        bucket=(row["frames"], row["height"], row["width"]),
        fps=row["fps"],
        captions=tuple(row["captions"]),
        labels=json.loads(row["labels"]),
        members=tuple(Member(**member) for member in row["members"]),
    )

"""The index beside a source's shards: where every member of every sample is, and what it is."""

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from models.config import Strict
from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError
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


class _Head(Strict):
    """What makes a source exist: the names of its shards, and a digest of its table."""

    version: int
    digest: str
    samples: int
    shards: tuple[str, ...]
    origin: dict[str, Any]


class Index:
    """The samples of one source, in the order in which they were written."""

    def __init__(self, store: Store, *, table: pa.Table, head: _Head) -> None:
        self.store = store
        self._table = table
        self._columns = {name: table[name].combine_chunks() for name in SCHEMA.names}
        self._head = head

    @classmethod
    def open(cls, uri: str) -> "Index":
        """Reads the index at a source's folder and checks that its shards are there.

        Raises:
            UserError: if there is no index, it is damaged or of another version, or a shard is
                missing.
        """
        store = open_store(uri)
        head = _read_head(store)
        there = set(store.list(""))
        missing = sorted(set(head.shards) - there)
        if missing:
            raise UserError(
                f"{store.uri}/{missing[0]}: the shard is missing, wanted all {len(head.shards)} "
                f"shards of the index ({len(missing)} missing)"
            )
        return cls(store, table=_read_table(store, samples=head.samples), head=head)

    @property
    def digest(self) -> str:
        """Sha256 over every key, caption and member hash."""
        return self._head.digest

    @property
    def origin(self) -> dict[str, Any]:
        """What the shards were made from, as their writer said."""
        return self._head.origin

    @property
    def shards(self) -> tuple[str, ...]:
        """Names of the shards, in order."""
        return self._head.shards

    @property
    def buckets(self) -> dict[Bucket, list[int]]:
        """Rows of every (frames, height, width), in order."""
        sides = [self._table.column(name).to_pylist() for name in ("frames", "height", "width")]
        rows: dict[Bucket, list[int]] = {}
        for row, bucket in enumerate(zip(*sides, strict=True)):
            rows.setdefault(bucket, []).append(row)
        return rows

    def keys(self, rows: Sequence[int]) -> list[str]:
        """Keys of the samples in rows; shards may share keys."""
        return self._columns["key"].take(pa.array(rows, pa.int64())).to_pylist()

    @property
    def uncaptioned(self) -> int:
        """Samples that have no caption."""
        lengths = self._columns["captions"].value_lengths().to_numpy(zero_copy_only=False)
        return int((lengths == 0).sum())

    def __len__(self) -> int:
        return self._table.num_rows

    def sample(self, row: int) -> Sample:
        """The sample in a row."""
        return _sample({name: column[row].as_py() for name, column in self._columns.items()})

    def of_shard(self, shard: str) -> list[Sample]:
        """The samples in a shard, in order."""
        rows = [row for row, name in enumerate(self._table["shard"].to_pylist()) if name == shard]
        return [_sample(row) for row in self._table.take(rows).to_pylist()]


def write_index(store: Store, rows: Iterable[dict[str, Any]], *, origin: dict[str, Any]) -> str:
    """Writes the table, then the head that makes the source exist; returns the digest.

    Args:
        store: the source's folder.
        rows: dictionaries of SCHEMA, as ``shards.write_shard`` returns them.
        origin: JSON that says what the shards were made from.
    """
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    head = _Head(
        version=VERSION,
        digest=_digest(table),
        samples=table.num_rows,
        shards=tuple(table.column("shard").unique().to_pylist()),
        origin=origin,
    )
    store.put(TABLE, buffer.getvalue())
    store.put(HEAD, head.model_dump_json(indent=1).encode())
    return head.digest


def _read_head(store: Store) -> _Head:
    where = f"{store.uri}/{HEAD}"
    try:
        raw = store.get(HEAD)
    except NotFoundError:
        raise UserError(f"{where}: not there, wanted a folder of indexed shards") from None
    try:
        head = _Head.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise UserError(f"{where}: {field} is damaged ({first['msg']})") from None
    if head.version != VERSION:
        raise UserError(f"{where}: version={head.version}, wanted {VERSION}")
    return head


def _read_table(store: Store, *, samples: int) -> pa.Table:
    where = f"{store.uri}/{TABLE}"
    try:
        table = pq.read_table(
            io.BytesIO(store.get(TABLE)), schema=SCHEMA, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{where}: damaged ({str(error).splitlines()[0]})") from None
    if table.num_rows != samples:
        raise UserError(f"{where}: {table.num_rows} samples, wanted {samples} as {HEAD} says")
    return table


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

"""Indexes and rows as they were written before shards had hashes."""

import hashlib
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.index import HEAD, TABLE
from orchestrator.storage.store import Store

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
        ("labels", pa.string()),
        ("members", pa.list_(_MEMBER)),
    ]
)


def age_index(store: Store) -> str:
    """Writes a source's index as version 1 did; returns its digest."""
    head = json.loads(store.get(HEAD))
    table = pq.read_table(io.BytesIO(store.get(TABLE))).select(SCHEMA.names).cast(SCHEMA)
    digest = hashlib.sha256()
    for name in ("key", "captions", "members"):
        digest.update(json.dumps(table.column(name).to_pylist(), sort_keys=True).encode())
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    store.put(TABLE, buffer.getvalue())
    old = {
        "version": 1,
        "digest": digest.hexdigest(),
        "samples": table.num_rows,
        "shards": [shard["name"] for shard in head["shards"]],
        "origin": head["origin"],
    }
    store.put(HEAD, json.dumps(old, indent=1).encode())
    return old["digest"]


def age_rows(store: Store, shard: str) -> None:
    """Writes a shard's rows as they were with version 1."""
    rows = json.loads(store.get(f"{shard}.rows.json"))["rows"]
    old = [{name: row[name] for name in SCHEMA.names} for row in rows]
    store.put(f"{shard}.rows.json", json.dumps(old).encode())

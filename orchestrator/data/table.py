"""``index.parquet``: one row per sample."""

import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.errors import UserError
from orchestrator.storage.store import Store

TABLE = "index.parquet"

_MEMBER = pa.struct(
    [("ext", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("xxh64", pa.string())]
)
_SINCE_1 = [
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
_SINCE_2 = [
    ("duration_s", pa.float64()),  # of the stored frames
    ("original", pa.string()),  # URI or path of the video that the clip was cut from
    ("start_s", pa.float64()),  # in the original
    ("end_s", pa.float64()),
]
_SINCE_3 = [  # what training sees of the clip; null where that is all of it
    ("bucket_frames", pa.int32()),
    ("bucket_height", pa.int32()),
    ("bucket_width", pa.int32()),
    ("bucket_fps", pa.float64()),
]
SCHEMA = pa.schema(_SINCE_1 + _SINCE_2 + _SINCE_3)
BUCKET = tuple(name for name, _ in _SINCE_3)
_ALWAYS = ("key", "captions", "members")  # in a digest
_WHERE_SET = ("original", "start_s", "end_s", *BUCKET)
_BESIDES = ("shard", "frames", "height", "width", "fps", "labels")


def table_of(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Dictionaries of SCHEMA as a table; what a row has not got is null."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def table_bytes(table: pa.Table) -> bytes:
    """The file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def read_table(store: Store, *, samples: int) -> pa.Table:
    """The table of so many samples; columns that came later are null in an older one.

    Raises:
        UserError: if it is damaged or of another length.
    """
    where = f"{store.uri}/{TABLE}"
    try:
        table = pq.read_table(
            io.BytesIO(store.get(TABLE)), schema=SCHEMA, page_checksum_verification=True
        )
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{where}: damaged ({str(error).splitlines()[0]})") from None
    if table.num_rows != samples:
        raise UserError(f"{where}: {table.num_rows} samples, wanted {samples} as index.json says")
    for name, _ in _SINCE_1:
        if table.column(name).null_count:
            raise UserError(f"{where}: damaged ({name} is not there for every sample)")
    missing, *others = (table.column(name).is_null() for name in BUCKET)
    if not all(missing.equals(other) for other in others):
        names = ", ".join(BUCKET)
        raise UserError(f"{where}: damaged (not all of {names} are there for a sample)")
    return table


def has_windows(table: pa.Table) -> bool:
    """Whether training sees something else of any clip than all of it."""
    return table.column(BUCKET[0]).null_count < table.num_rows


def table_digest(table: pa.Table) -> str:
    """Sha256 over every key, caption and member hash; over cuts and buckets where there are any.

    So clips that were not cut from anything, and are read whole, have the digest that version 1
    gave them.
    """
    digest = hashlib.sha256()
    there = [name for name in _WHERE_SET if table.column(name).null_count < table.num_rows]
    for name in (*_ALWAYS, *there):
        digest.update(json.dumps(table.column(name).to_pylist(), sort_keys=True).encode())
    return digest.hexdigest()


def layout_digest(table: pa.Table) -> str:
    """Sha256 over what else a sample is: its shape, rate, labels, and the shard that it is in."""
    digest = hashlib.sha256()
    for name in _BESIDES:
        digest.update(json.dumps(table.column(name).to_pylist()).encode())
    return digest.hexdigest()

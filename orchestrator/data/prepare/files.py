"""Rows of a step as a Parquet file: columns are the fields of their class."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, TypeVar, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.prepare.records import Row
from orchestrator.errors import UserError
from orchestrator.storage.store import Store

T = TypeVar("T", bound=Row)

_TYPES: Mapping[Any, pa.DataType] = {
    str: pa.string(),
    str | None: pa.string(),
    int: pa.int64(),
    int | None: pa.int64(),
    float: pa.float64(),
    tuple[str, ...]: pa.list_(pa.string()),
    tuple[float, ...]: pa.list_(pa.float64()),
    dict[str, float]: pa.map_(pa.string(), pa.float64()),
}


def schema_of(kind: type[Row]) -> pa.Schema:
    """Columns of a kind of rows: what every row has comes first."""
    hints = get_type_hints(kind)
    return pa.schema([(one.name, _TYPES[hints[one.name]]) for one in fields(kind)])


def write_rows(store: Store, name: str, rows: Sequence[T], *, kind: type[T]) -> None:
    """Writes a file; equal rows give equal bytes."""
    columns = [_written(row) for row in rows]
    store.put(name, parquet_bytes(pa.Table.from_pylist(columns, schema=schema_of(kind))))


def parquet_bytes(table: pa.Table) -> bytes:
    """A table as a file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def table_of(data: bytes, *, schema: pa.Schema) -> pa.Table:
    """A file's table, read by this thread.

    Threads of ``pq.read_table`` may still hold the file when the interpreter ends, which aborts.

    Raises:
        ArrowException, OSError, ValueError: if it is damaged or has other columns.
    """
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    return file.read(use_threads=False).cast(schema)


def read_rows(store: Store, name: str, *, kind: type[T]) -> list[T]:
    """The rows of a file.

    Raises:
        NotFoundError: if there is none.
        UserError: if it is damaged.
    """
    try:
        table = table_of(store.get(name), schema=schema_of(kind))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UserError(
            f"{store.uri}/{name}: damaged ({str(error).splitlines()[0]}), wanted the file as it "
            "was written: delete it, and it is made again"
        ) from None
    return [kind(**_read(row)) for row in table.to_pylist()]


def _written(row: Row) -> dict[str, Any]:
    return {
        name: sorted(value.items()) if isinstance(value, dict) else value
        for name, value in asdict(row).items()
    }


def _read(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _listed(name, value) if isinstance(value, list) else value
        for name, value in row.items()
    }


def _listed(name: str, value: list[Any]) -> Any:
    return dict(value) if name == "scores" else tuple(value)

"""A table of videos: CSV, JSON lines or Parquet with ``path`` and, if it likes, ``caption``."""

import csv
import io
import json
import posixpath
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.data.names import is_utf8
from orchestrator.data.parallel import in_threads
from orchestrator.data.prepare.keys import keys_of
from orchestrator.data.prepare.records import MISSING, REFUSED, Listed
from orchestrator.errors import UserError
from orchestrator.redact import holds_secret
from orchestrator.storage.errors import NotFoundError, RefusedError
from orchestrator.storage.store import join_uri, open_store

TABLES = ("csv", "jsonl", "parquet")
_COLUMNS = ("path", "caption")


def is_table(uri: str) -> bool:
    """Whether a source is one, by its name."""
    return uri.rpartition(".")[2].lower() in TABLES


def list_table(uri: str, *, kind_of: Callable[[str], str]) -> tuple[Listed, ...]:
    """Rows of a table; one whose file is not there, or may not be looked at, says so.

    Args:
        uri: of the table. Its relative paths are below its folder; others are absolute, or URIs.
        kind_of: whether a path is of a video or of an image.

    Raises:
        UserError: if it is not such a table, or has a path that is empty, comes twice or leaves
            the folder.
    """
    folder, _, name = uri.rpartition("/")
    rows = _read(open_store(folder), name)
    if not rows:
        raise UserError(f"{uri}: no rows, wanted at least one")
    places = [_place(uri, row, folder=folder) for row in rows]
    _refuse_doubles(uri, [join_uri(*place) for place in places])
    keys = keys_of([row["path"] for row in rows])

    def listed(number: int) -> Listed:
        root, name = places[number]
        row = Listed(
            key=keys[number],
            root=root,
            name=name,
            kind=kind_of(name),
            size=0,
            tag="",
            captions=_captions(rows[number].get("caption"), where=f"{uri}: row {number + 1}"),
        )
        try:
            entry = open_store(root).entry(name)
        except NotFoundError:
            return replace(row, reason=MISSING, detail="no such file")
        except RefusedError as error:
            return replace(row, reason=REFUSED, detail=str(error))
        return replace(row, size=entry.size, tag=entry.tag)

    return tuple(in_threads(listed, range(len(rows))))


def _read(store: Any, name: str) -> Sequence[Mapping[str, Any]]:
    where = f"{store.uri}/{name}"
    data = store.get(name)
    try:
        match name.rpartition(".")[2].lower():
            case "csv":
                rows, columns = _csv(data)
            case "jsonl":
                rows, columns = _json_lines(data)
            case _:
                table = pq.read_table(io.BytesIO(data))
                columns = table.column_names
                rows = table.select([one for one in _COLUMNS if one in columns]).to_pylist()
    except (ValueError, csv.Error, RecursionError, pa.ArrowException, OSError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{where}: not a table: {first}") from None
    if "path" not in columns:
        seen = ", ".join(str(one) for one in columns) or "none"
        raise UserError(f"{where}: columns are {seen}; wanted path, and caption if there are any")
    return rows


def _csv(data: bytes) -> tuple[list[dict[str, Any]], Sequence[str]]:
    reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
    rows = list(reader)
    return rows, reader.fieldnames or ()


def _json_lines(data: bytes) -> tuple[list[dict[str, Any]], Sequence[str]]:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(data.decode("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            raise ValueError(f"line {number} is not JSON") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object")
        rows.append(cast(dict[str, Any], row))
    lacking = next((row for row in rows if "path" not in row), rows[0] if rows else {})
    return rows, tuple(lacking)


def _place(uri: str, row: Mapping[str, Any], *, folder: str) -> tuple[str, str]:
    """Store and key of a row's file."""
    path = row["path"]
    if not isinstance(path, str) or not path.strip("/") or not is_utf8(path) or "\0" in path:
        raise UserError(f"{uri}: path={path!r}, wanted the path of a video or an image")
    if holds_secret(path):
        raise UserError(
            f"{uri}: path={path} holds a password or token, wanted credentials in the environment"
        )
    if "://" in path or path.startswith("/"):
        root, _, name = path.rpartition("/")
        if name in ("", ".", "..") or root.endswith(":/"):
            raise UserError(f"{uri}: path={path}: wanted the path of a file")
        return root or "/", name
    name = posixpath.normpath(path)
    if name.split("/")[0] == "..":
        raise UserError(
            f"{uri}: path={path} leaves the table's folder, wanted it as an absolute path or URI"
        )
    return folder, name


def _refuse_doubles(uri: str, paths: Sequence[str]) -> None:
    rows: dict[str, int] = {}
    for number, path in enumerate(paths, start=1):
        if path in rows:
            raise UserError(f"{uri}: path={path} in rows {rows[path]} and {number}, wanted it once")
        rows[path] = number


def _captions(value: object, *, where: str) -> tuple[str, ...]:
    """A text or a list of texts; an empty one is none."""
    texts = cast(list[object], value) if isinstance(value, list) else [value]
    captions: list[str] = []
    for text in texts:
        if text is None:
            continue
        if not isinstance(text, str) or not is_utf8(text):
            raise UserError(f"{where}: caption={text!r}, wanted a text or a list of texts")
        if text.strip():
            captions.append(text.strip())
    return tuple(captions)

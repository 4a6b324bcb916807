"""One sample of an index at a time, out of columns as they lie in memory: no object per row."""

import json
from bisect import bisect_right
from itertools import pairwise
from typing import Any, NamedTuple

import pyarrow as pa

from orchestrator.data.table import BUCKET

Bucket = tuple[int, int, int]  # frames, height, width


class Member(NamedTuple):
    """One file of a sample inside its shard; offset and size in bytes."""

    ext: str
    offset: int
    size: int
    xxh64: str


class Sample(NamedTuple):
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
    labels_json: str
    members: tuple[Member, ...]
    duration_s: float
    original: str | None
    start_s: float | None
    end_s: float | None

    @property
    def is_windowed(self) -> bool:
        """Whether training sees something else than all that is stored."""
        return self.bucket != self.stored or self.fps != self.stored_fps

    @property
    def labels(self) -> dict[str, Any]:
        """What else its writer said of it."""
        return json.loads(self.labels_json)


class Rows:
    """The rows of a table of SCHEMA as samples.

    The table's pieces are used as they are: joining them would copy all of it, and texts of many
    million rows do not fit one piece.
    """

    def __init__(self, table: pa.Table) -> None:
        self._pieces = [_Piece(batch) for batch in table.to_batches() if batch.num_rows]
        self._firsts: list[int] = []
        first = 0
        for piece in self._pieces:
            self._firsts.append(first)
            first += len(piece)
        self._len = first

    def __getitem__(self, row: int) -> Sample:
        piece, at = self._find(row)
        return piece.sample(at)

    def shard(self, row: int) -> str:
        """The shard of a row's sample."""
        piece, at = self._find(row)
        return piece.shard[at]

    @property
    def extensions(self) -> set[str]:
        """Of all members."""
        return {name for piece in self._pieces for name in piece.ext.names}

    def _find(self, row: int) -> "tuple[_Piece, int]":
        if not 0 <= row < self._len:
            raise IndexError(f"row {row}, wanted one of {self._len}")
        at = bisect_right(self._firsts, row) - 1
        return self._pieces[at], row - self._firsts[at]


class _Piece:
    """Columns of some rows."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self._len = batch.num_rows
        self._key = _Texts(batch.column("key"))
        self.shard = _Names(batch.column("shard"))
        self._frames, self._height, self._width, self._fps = (
            _numbers(batch.column(name)) for name in ("frames", "height", "width", "fps")
        )
        self._bucket = [  # none of the four, or all
            _numbers(column.fill_null(0))
            for column in map(batch.column, BUCKET)
            if column.null_count < self._len
        ]
        self._labels = _Texts(batch.column("labels"))
        captions, members = batch.column("captions"), batch.column("members")
        self._captions = _numbers(captions.offsets)
        self._caption = _Texts(captions.values)
        self._members = _numbers(members.offsets)
        # In the order of the schema: ext, offset, size, xxh64.
        ext, offset, size, xxh64 = members.values.flatten()
        self.ext, self._xxh64 = _Names(ext), _Texts(xxh64)
        self._offset, self._size = _numbers(offset), _numbers(size)
        self._cut = [batch.column(name) for name in ("original", "start_s", "end_s")]
        self._is_cut = any(column.null_count < self._len for column in self._cut)

    def __len__(self) -> int:
        return self._len

    def sample(self, row: int) -> Sample:
        """The sample in a row of these."""
        stored = self._frames[row], self._height[row], self._width[row]
        fps = self._fps[row]
        bucket, seen_fps = stored, fps
        if self._bucket and self._bucket[0][row]:
            frames, height, width, seen_fps = (column[row] for column in self._bucket)
            bucket = frames, height, width
        original = start_s = end_s = None
        if self._is_cut:
            original, start_s, end_s = (column[row].as_py() for column in self._cut)
        first, last = self._members[row], self._members[row + 1]
        return Sample(
            key=self._key[row],
            shard=self.shard[row],
            bucket=bucket,
            fps=seen_fps,
            stored=stored,
            stored_fps=fps,
            captions=tuple(self._caption.some(self._captions[row], self._captions[row + 1])),
            labels_json=self._labels[row],
            members=tuple(
                map(
                    Member,
                    self.ext.some(first, last),
                    self._offset[first:last],
                    self._size[first:last],
                    self._xxh64.some(first, last),
                )
            ),
            duration_s=stored[0] / fps,
            original=original,
            start_s=start_s,
            end_s=end_s,
        )


class _Texts:
    """A column of texts without nulls; one is made of its bytes when it is asked for."""

    def __init__(self, array: pa.Array) -> None:
        _, offsets, data = array.buffers()
        at = array.offset
        self._offsets = memoryview(offsets or bytes(4)).cast("i")[at : at + len(array) + 1]
        self._data = memoryview(data or b"")

    def __getitem__(self, at: int) -> str:
        offsets = self._offsets
        return str(self._data[offsets[at] : offsets[at + 1]], "utf-8")

    def some(self, first: int, last: int) -> list[str]:
        """Those from ``first`` on, before ``last``."""
        data = self._data
        return [
            str(data[start:end], "utf-8")
            for start, end in pairwise(self._offsets[first : last + 1])
        ]


class _Names:
    """A column of few different texts without nulls."""

    def __init__(self, array: pa.Array) -> None:
        coded = array.dictionary_encode()
        self.names: list[str] = coded.dictionary.to_pylist()
        self._codes = _numbers(coded.indices)

    def __getitem__(self, at: int) -> str:
        return self.names[self._codes[at]]

    def some(self, first: int, last: int) -> list[str]:
        """Those from ``first`` on, before ``last``."""
        return [self.names[code] for code in self._codes[first:last]]


def _numbers(array: pa.Array) -> "memoryview[Any]":
    """A column of numbers without nulls, each a Python number when it is asked for."""
    return memoryview(array.to_numpy(zero_copy_only=True))

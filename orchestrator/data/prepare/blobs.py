"""Encoded clips of a unit, one behind the other, until they are packed into shards."""

import xxhash

from orchestrator.data.prepare.records import Chosen, Encoded
from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError, PastEndError
from orchestrator.storage.store import Store

_FILE_BYTES = 64 << 20  # of a file, about: what a worker keeps in memory

SUFFIX = ".clips"


class BlobWriter:
    """Takes clips and writes a file whenever enough have come together.

    Args:
        store: where to.
        output: the unit's file, whose name theirs begin with.
        is_kept: False to write nothing.
    """

    def __init__(self, store: Store, output: str, *, is_kept: bool) -> None:
        self._store = store
        self._stem = output.removesuffix(".parquet")
        self._is_kept = is_kept
        self._buffer = bytearray()
        self._files = 0

    def add(self, clip: Chosen, *, ext: str, data: bytes) -> Encoded:
        """Says where a clip is going to be."""
        row = Encoded(
            clip.key,
            video=clip.video,
            file=f"{self._stem}.{self._files}{SUFFIX}",
            offset=len(self._buffer),
            size=len(data),
            xxh64=xxhash.xxh64_hexdigest(data),
            ext=ext,
        )
        self._buffer += data
        if len(self._buffer) >= _FILE_BYTES:
            self.close()
        return row

    def close(self) -> None:
        """Writes what has come together."""
        if self._buffer and self._is_kept:
            self._store.put(f"{self._stem}.{self._files}{SUFFIX}", bytes(self._buffer))
        self._files += 1
        self._buffer = bytearray()


def read_blob(store: Store, file: str, *, offset: int, size: int, xxh64: str) -> bytes:
    """A clip's bytes.

    Raises:
        UserError: if they are not those that were written, or not there.
    """
    try:
        data = store.get_range(file, start=offset, length=size)
    except (NotFoundError, PastEndError):
        data = b""
    if xxhash.xxh64_hexdigest(data) != xxh64:
        raise UserError(
            f"{store.uri}/{file}: damaged at byte {offset}, wanted it as it was written: delete "
            "the .parquet file beside it, and both are made again"
        )
    return data

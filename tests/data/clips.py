"""Small sources for tests, and stores that count."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.decode import npz_bytes
from orchestrator.data.index import Bucket, Index, write_index
from orchestrator.data.shards import NewSample, shard_name, write_shard
from orchestrator.storage.store import Begin, Entry, Store, open_store

PER_SHARD = 4


def frames_of(number: int, bucket: Bucket) -> NDArray[np.uint8]:
    """The frames of clip ``number``: noise that no other clip has."""
    return np.random.Generator(np.random.Philox(key=number)).integers(
        256, size=(*bucket, 3), dtype=np.uint8
    )


def new_clip(number: int, bucket: Bucket, *, captions: bool = True) -> NewSample:
    """Clip ``number`` as it is written."""
    return NewSample(
        key=f"clip-{number:03d}",
        members={"npz": npz_bytes(frames=frames_of(number, bucket)), "json": b"{}"},
        bucket=bucket,
        fps=8.0,
        source="noise",
        captions=(f"clip {number}", f"noise number {number}") if captions else (),
        labels={"number": number},
    )


def write_source(uri: str, shapes: Mapping[Bucket, int], *, captions: bool = True) -> Index:
    """An indexed source with so many clips of each shape, PER_SHARD to a shard."""
    store = open_store(uri)
    buckets = [bucket for bucket, count in shapes.items() for _ in range(count)]
    clips = [new_clip(number, one, captions=captions) for number, one in enumerate(buckets)]
    written = [
        write_shard(store, shard_name(first // PER_SHARD), clips[first : first + PER_SHARD])
        for first in range(0, len(clips), PER_SHARD)
    ]
    write_index(store, written, origin={"made": "by a test"})
    return Index.open(uri)


class CountingStore:
    """A store that counts what is read from it."""

    def __init__(self, store: Store) -> None:
        self.reads: Counter[str] = Counter()
        self._store = store
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        return self._store.uri

    def get(self, key: str) -> bytes:
        self._count(key)
        return self._store.get(key)

    def get_in_pieces(self, key: str, begin: Begin) -> None:
        begin()(self.get(key))

    def local(self, key: str) -> Path | None:
        return self._store.local(key)

    def get_range(self, key: str, *, start: int, length: int) -> bytes:
        self._count(key)
        return self._store.get_range(key, start=start, length=length)

    def put(self, key: str, data: bytes | memoryview) -> None:
        self._store.put(key, data)

    def put_new(self, key: str, data: bytes) -> bool:
        return self._store.put_new(key, data)

    def exists(self, key: str) -> bool:
        return self._store.exists(key)

    def list(self, prefix: str) -> list[str]:
        return self._store.list(prefix)

    def entry(self, key: str) -> Entry:
        return self._store.entry(key)

    def entries(self, prefix: str) -> Sequence[Entry]:
        return self._store.entries(prefix)

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def delete_prefix(self, prefix: str) -> None:
        self._store.delete_prefix(prefix)

    def check(self) -> None:
        self._store.check()

    def _count(self, key: str) -> None:
        with self._lock:
            self.reads[key] += 1


def flip_bit(store: Store, key: str, *, offset: int) -> None:
    """Damages one bit of an object."""
    data = bytearray(store.get(key))
    data[offset] ^= 1
    store.put(key, bytes(data))


def flip_bit_in_place(path: Path, *, offset: int) -> None:
    """Damages one bit of a file that may be open."""
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))

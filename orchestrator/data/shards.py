"""Shards: plain tar files that any WebDataset reader takes (``key.ext``), written whole.

A shard exists once its list of rows stands beside it; that list is what resumes a writer that was
stopped, and what the index is made of in the end.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from orchestrator.data.index import Bucket
from orchestrator.storage.store import Store

_ROWS = ".rows.json"


@dataclass(frozen=True)
class NewSample:
    """A sample to be written: its files by extension, and what the index says of it."""

    key: str
    members: Mapping[str, bytes]
    bucket: Bucket
    fps: float
    source: str
    captions: tuple[str, ...]
    labels: Mapping[str, Any]


def shard_name(number: int) -> str:
    """Name of the shard of that number."""
    return f"shard-{number:06d}.tar"


def write_shard(store: Store, shard: str, samples: Iterable[NewSample]) -> list[dict[str, Any]]:
    """Writes a shard and its rows; equal samples give equal bytes.

    Returns:
        One dictionary of ``index.SCHEMA`` per sample.

    Raises:
        ValueError: if a key is not a plain name or comes twice.
    """
    buffer = io.BytesIO()
    rows: list[dict[str, Any]] = []
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        keys: set[str] = set()
        for sample in samples:
            # WebDataset takes all up to the first dot as the key, and a path as a folder.
            if not sample.key or sample.key in keys or set(sample.key) & set("./\\\0"):
                raise ValueError(f"{shard}: key={sample.key!r}, wanted a new name without . and /")
            keys.add(sample.key)
            rows.append(_add(archive, sample, shard=shard))
    store.put(shard, buffer.getvalue())
    store.put(shard + _ROWS, json.dumps(rows).encode())
    return rows


def written_rows(store: Store, shard: str) -> list[dict[str, Any]]:
    """The rows of a shard that was written before; empty if it was not."""
    if not (store.exists(shard + _ROWS) and store.exists(shard)):
        return []
    return json.loads(store.get(shard + _ROWS))


def _add(archive: tarfile.TarFile, sample: NewSample, *, shard: str) -> dict[str, Any]:
    members: list[dict[str, Any]] = []
    for ext, data in sample.members.items():
        header = tarfile.TarInfo(f"{sample.key}.{ext}")
        header.size = len(data)
        offset = archive.offset + tarfile.BLOCKSIZE  # a USTAR header is one block
        archive.addfile(header, io.BytesIO(data))
        members.append(
            {
                "ext": ext,
                "offset": offset,
                "size": len(data),
                "xxh64": xxhash.xxh64_hexdigest(data),
            }
        )
    frames, height, width = sample.bucket
    return {
        "key": sample.key,
        "shard": shard,
        "frames": frames,
        "height": height,
        "width": width,
        "fps": sample.fps,
        "source": sample.source,
        "captions": list(sample.captions),
        "labels": json.dumps(dict(sample.labels), sort_keys=True),
        "members": members,
    }

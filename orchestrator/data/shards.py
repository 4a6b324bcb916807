"""Shards: plain tar files that any WebDataset reader takes (``key.ext``), written whole.

A shard exists once its list of rows stands beside it; that list is what resumes a writer that was
stopped, and what the index is made of in the end. It names the tar: where several writers may be at
the same shard, each writes a tar that is called after its bytes, so that rows and tar always fit.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import xxhash

from orchestrator.data.buckets import RatedBucket
from orchestrator.data.index import Bucket, Shard, WrittenShard
from orchestrator.data.names import key_and_ext, unsafe
from orchestrator.data.parallel import in_threads
from orchestrator.storage.store import Store

_TAR = ".tar"
ROWS_SUFFIX = ".rows.json"


@dataclass(frozen=True)
class NewSample:
    """A sample to be written: its files by extension, and what the index says of it.

    ``bucket`` and ``fps`` are what its files hold; training sees all of it unless ``seen_as`` says
    what else. ``start_s`` and ``end_s`` are in the ``original`` that it was cut from, all three
    None where it was not.
    """

    key: str
    members: Mapping[str, bytes]
    bucket: Bucket
    fps: float
    source: str
    captions: tuple[str, ...]
    labels: Mapping[str, Any]
    original: str | None = None
    start_s: float | None = None
    end_s: float | None = None
    seen_as: RatedBucket | None = None


def shard_name(number: int) -> str:
    """Name of the shard of that number."""
    return f"shard-{number:06d}{_TAR}"


def write_shard(store: Store, shard: str, samples: Iterable[NewSample]) -> WrittenShard:
    """Writes a shard and its rows; equal samples give equal bytes.

    Raises:
        ValueError: if a key is not what WebDataset would take as one, leaves the folder that a
            tar is unpacked in, or comes twice; or if a clip is too small for its bucket.
    """
    data, rows = _packed(shard, samples)
    return _write(store, shard, data, rows=rows, tar=shard)


def write_shared_shard(store: Store, shard: str, samples: Iterable[NewSample]) -> WrittenShard:
    """As ``write_shard``, beside others that may write the same shard at the same time.

    The tar's name has its hash: ``shard-000000-XXH64.tar``. The last one's rows count, and the tar
    that they name is never written over by other bytes.
    """
    data, rows = _packed(shard, samples)
    tar = f"{shard.removesuffix(_TAR)}-{xxhash.xxh64_hexdigest(data)}{_TAR}"
    return _write(store, shard, data, rows=rows, tar=tar)


def is_written(store: Store, shard: str) -> bool:
    """Whether a shard was written whole before."""
    return store.exists(shard + ROWS_SUFFIX) and store.exists(_tar_of(store, shard))


def written_among(store: Store, shards: Iterable[str]) -> list[str]:
    """Those of the shards that were written whole before; lists their folder once."""
    there = set(store.list(""))
    begun = [one for one in shards if one + ROWS_SUFFIX in there]
    tars = in_threads(lambda shard: _tar_of(store, shard), begun)
    return [one for one, tar in zip(begun, tars, strict=True) if tar in there]


def read_written(store: Store, shard: str) -> WrittenShard:
    """A shard that was written whole before; what older rows do not say is made up for."""
    tree = json.loads(store.get(shard + ROWS_SUFFIX))
    if isinstance(tree, list):  # rows alone, as they were written with indexes of version 1
        rows = [{**row, "duration_s": row["frames"] / row["fps"]} for row in tree]
        return WrittenShard(shard=_described(shard, store.get(shard)), rows=rows)
    return WrittenShard(shard=Shard.model_validate(tree["shard"]), rows=tree["rows"])


def _packed(shard: str, samples: Iterable[NewSample]) -> tuple[bytes, list[dict[str, Any]]]:
    """A tar, and its rows."""
    buffer = io.BytesIO()
    rows: list[dict[str, Any]] = []
    # The same bytes as USTAR for names that fit it.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        keys: set[str] = set()
        for sample in samples:
            if sample.key in keys or not _is_key(sample.key):
                raise ValueError(f"{shard}: key={sample.key!r}, wanted a new name without a dot")
            keys.add(sample.key)
            _check_size(sample)
            rows.append(_add(archive, sample, shard=shard))
    return buffer.getvalue(), rows


def _write(
    store: Store, shard: str, data: bytes, *, rows: list[dict[str, Any]], tar: str
) -> WrittenShard:
    written = WrittenShard(
        shard=_described(tar, data), rows=[{**row, "shard": tar} for row in rows]
    )
    store.put(tar, data)
    store.put(shard + ROWS_SUFFIX, _rows_bytes(written))
    return written


def _tar_of(store: Store, shard: str) -> str:
    """The tar that a shard's rows are of."""
    tree = json.loads(store.get(shard + ROWS_SUFFIX))
    return shard if isinstance(tree, list) else tree["shard"]["name"]


def _rows_bytes(written: WrittenShard) -> bytes:
    return json.dumps({"shard": written.shard.model_dump(), "rows": written.rows}).encode()


def _described(shard: str, data: bytes) -> Shard:
    return Shard(name=shard, bytes=len(data), xxh64=xxhash.xxh64_hexdigest(data))


def _check_size(sample: NewSample) -> None:
    if sample.seen_as is not None:
        try:
            sample.seen_as.check(sample.bucket, fps=sample.fps)
        except ValueError as error:
            raise ValueError(f"{sample.key}: {error} for bucket {sample.seen_as}") from None


def _is_key(key: str) -> bool:
    return key_and_ext(f"{key}.json") == (key, "json") and unsafe(key) is None


def _add(archive: tarfile.TarFile, sample: NewSample, *, shard: str) -> dict[str, Any]:
    members: list[dict[str, Any]] = []
    for ext, data in sample.members.items():
        header = tarfile.TarInfo(f"{sample.key}.{ext}")
        header.size = len(data)
        # A long name or one that is not ASCII takes more than one block.
        offset = archive.offset + len(header.tobuf(tarfile.PAX_FORMAT))
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
        "duration_s": frames / sample.fps,
        "original": sample.original,
        "start_s": sample.start_s,
        "end_s": sample.end_s,
        **({} if sample.seen_as is None else sample.seen_as.columns()),
    }

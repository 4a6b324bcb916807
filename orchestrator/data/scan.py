"""An index for WebDataset's tars that have none: made by reading them once."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from orchestrator.data.buckets import RatedBucket, assign_bucket
from orchestrator.data.describe import describe
from orchestrator.data.head import HEAD, read_head
from orchestrator.data.index import Shard, WrittenShard, write_index
from orchestrator.data.names import key_and_ext, shown
from orchestrator.data.parallel import Tally, in_threads
from orchestrator.data.probe import probe
from orchestrator.data.tars import TarFile, read_tar
from orchestrator.errors import UserError
from orchestrator.storage.store import Store, open_store, resolve

LEFT_OUT = "left-out.txt"
_SCANNED = "scanned"  # in the index's origin
_PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.xz", ".tar.bz2")


@dataclass(frozen=True)
class Scan:
    """What was indexed, and one line for every sample that was not."""

    shards: int
    clips: int
    uncaptioned: int
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _ShardScan:
    written: WrittenShard
    left_out: tuple[str, ...]
    refused: tuple[str, ...]


def is_scanned(origin: Mapping[str, Any]) -> bool:
    """Whether an index with this origin was made here; its tars may hold more than it names."""
    return _SCANNED in origin


def scan_source(
    uri: str,
    *,
    out: str | None,
    on_shards: Callable[[int, int], None],
    buckets: Sequence[RatedBucket] = (),
) -> Scan:
    """Reads all tars below a folder and writes their index.

    A sample that the reader could not decode, or that fits no bucket, is left out;
    ``left-out.txt`` beside the index has a line for each of them.

    Args:
        uri: folder of the tars.
        out: folder of the index; None for that of the tars.
        on_shards: told (read, all) shards, from any thread.
        buckets: of which every sample gets the one that ``assign_bucket`` says; none if training
            is to see all of every sample.

    Raises:
        UserError: if there are no tars, one is compressed, breaks off or holds what it may not
            (the line names it), no sample is left, or another kind of index is there.
    """
    store, target = open_store(uri), open_store(out or uri)
    names = _tars(store)
    _check_target(target)
    tally = Tally(len(names), tell=on_shards)

    def scan(name: str) -> _ShardScan:
        scanned = _scan_shard(store, name, buckets=buckets)
        tally.add(1)
        return scanned

    scans = in_threads(scan, names)
    _refuse(store, [line for one in scans for line in one.refused])
    left_out = tuple(line for one in scans for line in one.left_out)
    clips = sum(len(one.written.rows) for one in scans)
    if not clips:
        first = f"; {left_out[0]}" if left_out else ""
        raise UserError(f"{store.uri}: {len(names)} tar files without a sample to read{first}")
    base = None if target.uri == store.uri else resolve(uri)
    target.delete(HEAD)
    target.delete(LEFT_OUT)
    if left_out:
        target.put(LEFT_OUT, "".join(f"{line}\n" for line in left_out).encode())
    write_index(
        target,
        [one.written for one in scans],
        origin={
            _SCANNED: store.uri,
            "left_out": len(left_out),
            **({"buckets": [str(bucket) for bucket in buckets]} if buckets else {}),
        },
        base=base,
    )
    rows = [row for one in scans for row in one.written.rows]
    return Scan(
        shards=len(names),
        clips=clips,
        uncaptioned=sum(not row["captions"] for row in rows),
        left_out=left_out,
    )


def _tars(store: Store) -> list[str]:
    names = store.list("")
    packed = [name for name in names if name.endswith(_PACKED)]
    if packed:
        raise UserError(f"{store.uri}/{packed[0]}: compressed, wanted plain tar files")
    tars = [name for name in names if name.endswith(".tar")]
    if not tars:
        raise UserError(f"{store.uri}: no tar files, wanted at least one")
    return tars


def _check_target(target: Store) -> None:
    if target.exists(HEAD) and not is_scanned(read_head(target).origin):
        raise UserError(
            f"{target.uri}/{HEAD}: an index that its writer made, wanted a folder without one or "
            "another --out"
        )


def _refuse(store: Store, refused: list[str]) -> None:
    if refused:
        more = f" ({len(refused) - 1} more like this)" if len(refused) > 1 else ""
        raise UserError(f"{store.uri}/{refused[0]}{more}")


def _scan_shard(store: Store, name: str, *, buckets: Sequence[RatedBucket]) -> _ShardScan:
    data = store.get(name)
    contents = read_tar(data)
    refused = [f"{name}: {fault}" for fault in contents.faults]
    left_out: list[str] = []
    samples: dict[str, dict[str, TarFile]] = {}
    last: str | None = None
    for file in contents.files:
        found = key_and_ext(file.name)
        if found is None:
            left_out.append(f"{name}: {shown(file.name)}: no key and extension")
            continue
        key, ext = found
        members = samples.setdefault(key, {})
        if ext in members or (members and key != last):
            refused.append(f"{name}: {shown(file.name)}: the key {shown(key)} comes twice")
        members[ext] = file
        last = key
    rows: list[dict[str, Any]] = []
    for key, members in samples.items() if not refused else ():
        try:
            row = _row(data, key=key, members=members, shard=name, source=store.uri)
            rows.append(row | _bucket_of(row, buckets))
        except ValueError as error:
            left_out.append(f"{name}: {shown(key)}: {' '.join(str(error).split())}")
    shard = Shard(name=name, bytes=len(data), xxh64=xxhash.xxh64_hexdigest(data))
    return _ShardScan(WrittenShard(shard, rows), tuple(left_out), tuple(refused))


def _row(
    data: bytes, *, key: str, members: Mapping[str, TarFile], shard: str, source: str
) -> dict[str, Any]:
    raw = {ext: data[one.offset : one.offset + one.size] for ext, one in members.items()}
    described, probed = describe(raw), probe(raw)
    fps = probed.fps or described.fps
    if fps is None:
        raise ValueError("no fps in its json, wanted one beside frames that are an array")
    frames, height, width = probed.bucket
    return {
        "key": key,
        "shard": shard,
        "frames": frames,
        "height": height,
        "width": width,
        "fps": fps,
        "source": source,
        "captions": list(described.captions),
        "labels": json.dumps(described.labels, sort_keys=True),
        "members": [
            {
                "ext": ext,
                "offset": one.offset,
                "size": one.size,
                "xxh64": xxhash.xxh64_hexdigest(raw[ext]),
            }
            for ext, one in members.items()
        ],
        "duration_s": frames / fps,
    }


def _bucket_of(row: Mapping[str, Any], buckets: Sequence[RatedBucket]) -> dict[str, Any]:
    if not buckets:
        return {}
    stored = (row["frames"], row["height"], row["width"])
    return assign_bucket(buckets, stored=stored, fps=row["fps"]).columns()

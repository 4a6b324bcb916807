"""Everything that can be wrong with a source, found by reading all of it."""

from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from orchestrator.data.decode import is_array
from orchestrator.data.head import Shard
from orchestrator.data.index import Index, Sample
from orchestrator.data.names import key_and_ext, shown
from orchestrator.data.parallel import Tally, in_threads
from orchestrator.data.reader import arrays_of
from orchestrator.data.scan import is_scanned
from orchestrator.data.table import TABLE, table_digest
from orchestrator.data.tars import read_tar
from orchestrator.data.windowed import check_windows
from orchestrator.errors import UserError
from orchestrator.storage.errors import NotFoundError

_Check = Callable[[Sample, bytes], list[str]]


@dataclass(frozen=True)
class Report:
    """A source, what its shards weigh in bytes, and one line for everything wrong with it."""

    index: Index
    shards_bytes: int
    faults: tuple[str, ...]


def validate_hashes(index: Index, *, on_clips: Callable[[int, int], None]) -> Report:
    """Checks structure and every hash: of whole shards, and of every member.

    Args:
        index: of the source.
        on_clips: told (looked at, all) clips, from any thread.

    Raises:
        UnavailableError: if its store cannot be reached; what is wrong with the source is not
            raised but in the report.
    """
    return _validate(index, check=_member_faults, on_clips=on_clips)


def validate_clips(index: Index, *, on_clips: Callable[[int, int], None]) -> Report:
    """As ``validate_hashes``, and decodes all of every clip whose members are whole."""
    return _validate(index, check=_clip_faults, on_clips=on_clips)


def _validate(index: Index, *, check: _Check, on_clips: Callable[[int, int], None]) -> Report:
    tally = Tally(len(index), tell=on_clips)
    results = in_threads(
        lambda shard: _check_shard(index, shard, check=check, tally=tally), index.head.shards
    )
    return Report(
        index=index,
        shards_bytes=sum(size for size, _ in results),
        faults=(*_table_faults(index), *(line for _, faults in results for line in faults)),
    )


def _table_faults(index: Index) -> list[str]:
    faults: list[str] = []
    digest = table_digest(index.table)
    if digest != index.digest:
        faults.append(f"{TABLE}: digest={digest}, wanted {index.digest} as index.json says")
    unknown = sorted(set(index.table.column("shard").unique().to_pylist()) - set(index.shards))
    return faults + [f"{name}: a shard that index.json does not know" for name in unknown]


def _check_shard(
    index: Index, shard: Shard, *, check: _Check, tally: Tally
) -> tuple[int, list[str]]:
    """Size in bytes, and faults."""
    samples = index.of_shard(shard.name)
    try:
        data = index.store.get(shard.name)
    except UserError as error:
        tally.add(len(samples))
        why = "missing" if isinstance(error, NotFoundError) else f"not readable ({error})"
        return 0, [f"{shard.name}: the shard is {why}"]
    faults = _shard_faults(shard, data)
    faults += _tar_faults(samples, data, has_others=is_scanned(index.origin))
    for sample in samples:
        faults += check(sample, data)
        tally.add(1)
    return len(data), [f"{shard.name}: {fault}" for fault in faults]


def _shard_faults(shard: Shard, data: bytes) -> list[str]:
    if shard.bytes is not None and shard.bytes != len(data):
        return [f"the shard has {len(data)} bytes, wanted {shard.bytes}"]
    seen = xxhash.xxh64_hexdigest(data)
    if shard.xxh64 not in (None, seen):
        return [f"the shard is damaged: xxh64={seen}, wanted {shard.xxh64}"]
    return []


def _tar_faults(samples: list[Sample], data: bytes, *, has_others: bool) -> list[str]:
    """What the tar says of itself against what the index says of it."""
    contents = read_tar(data)
    if contents.faults:
        return list(contents.faults)  # what else does not fit follows from them
    there = {
        (key_and_ext(file.name), file.offset, file.size): shown(file.name)
        for file in contents.files
    }
    wanted = {
        ((sample.key, member.ext), member.offset, member.size)
        for sample in samples
        for member in sample.members
    }
    faults = [
        f"{shown(key)}.{ext} is not in the tar at byte {offset} with {size} bytes"
        for (key, ext), offset, size in sorted(wanted - there.keys())
    ]
    others = [] if has_others else [name for place, name in there.items() if place not in wanted]
    faults += [f"{name} is not in the index" for name in others]
    return faults


def _member_faults(sample: Sample, data: bytes) -> list[str]:
    return [
        f"{shown(sample.key)}.{member.ext} is damaged: xxh64={seen}, wanted {member.xxh64}"
        for member in sample.members
        if (seen := xxhash.xxh64_hexdigest(data[member.offset : member.offset + member.size]))
        != member.xxh64
    ]


def _clip_faults(sample: Sample, data: bytes) -> list[str]:
    faults = _member_faults(sample, data)
    if faults:
        return faults
    raw = {
        member.ext: data[member.offset : member.offset + member.size]
        for member in sample.members
        if is_array(member.ext)
    }
    try:
        (check_windows if sample.is_windowed else arrays_of)(sample, raw)
    except ValueError as error:
        return [" ".join(str(error).split())]
    return []

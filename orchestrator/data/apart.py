"""A few samples out of many shards: only their own bytes are fetched."""

from typing import Any

import xxhash

from orchestrator.data.bad import BadSampleError
from orchestrator.data.decode import is_array
from orchestrator.data.head import told_missing
from orchestrator.data.index import Index
from orchestrator.data.members import DamagedMember, check_hash
from orchestrator.data.reader import seen_of
from orchestrator.data.rows import Member, Sample
from orchestrator.storage.errors import NotFoundError


def read_apart(index: Index, row: int) -> tuple[Sample, dict[str, Any]]:
    """The sample in a row and its arrays, for who wants few: no shard is copied to this machine.

    Of a longer clip it is the first window.

    Raises:
        BadSampleError: if a member is not what its hash says, also when it is fetched once more, or
            cannot be decoded.
        NotFoundError: if its shard is missing.
    """
    sample = index.sample(row)
    try:
        raw = {one.ext: _member(index, sample, one) for one in sample.members if is_array(one.ext)}
        return sample, seen_of(sample, raw, draw=0.0)
    except ValueError as error:
        raise BadSampleError(f"{index.store.uri}/{sample.shard}: {error}") from None


def _member(index: Index, sample: Sample, member: Member) -> bytes:
    try:
        return _checked(index, sample, member)
    except DamagedMember:
        return _checked(index, sample, member)


def _checked(index: Index, sample: Sample, member: Member) -> bytes:
    try:
        data = index.store.get_range(sample.shard, start=member.offset, length=member.size)
    except NotFoundError:
        line = told_missing(index.head, [sample.shard], shards=index.store)
        raise NotFoundError(line) from None
    check_hash(sample, member, seen=xxhash.xxh64_hexdigest(data))
    return data

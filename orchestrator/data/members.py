"""Members of samples as bytes out of open shards, each checked against its hash."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import xxhash

from orchestrator.data.npy import Buffer
from orchestrator.data.rows import Member, Sample
from orchestrator.storage.files import OpenFile

_MOST_GAP = 2**16  # bytes that are read for nothing rather than in a second call
_BETWEEN = memoryview(bytearray(_MOST_GAP))  # takes what lies between members: nobody looks at it


class DamagedMember(ValueError):  # noqa: N818 - it says which, and is caught where that is known
    """A member is not what its hash says; the text begins with its name."""


@lru_cache(1024)
def is_npy(ext: str) -> bool:
    """Whether a member is an ``.npy`` file."""
    return ext.rpartition(".")[2] == "npy"


def read_member(file: OpenFile, sample: Sample, member: Member) -> Buffer:
    """A member: writable memory for an ``.npy`` file, whose array then lies in it.

    Raises:
        DamagedMember: if it is not what its hash says.
    """
    data: Buffer
    if is_npy(member.ext):
        data = np.empty(member.size, dtype=np.uint8).data
        read_side_by_side(file, sample, [member], [[data]])
    else:
        data = file.read(member.size, offset=member.offset)
    check_hash(sample, member, seen=xxhash.xxh64_hexdigest(data))
    return data


def read_side_by_side(
    file: OpenFile,
    sample: Sample,
    members: Sequence[Member],
    places: Sequence[Sequence[memoryview]],
) -> None:
    """Reads members into memory, those that lie beside each other in one call; checks no hash.

    Args:
        file: the shard.
        sample: whose members they are.
        members: in the order of their offsets; any other costs more calls.
        places: where each member goes, piece by piece.

    Raises:
        DamagedMember: if the file ends before they do.
    """
    first = 0
    while first < len(members):
        last, end = first, members[first].offset
        buffers: list[memoryview] = []
        for member in members[first:]:
            gap = member.offset - end
            if not 0 <= gap <= _MOST_GAP:
                break
            if gap:
                buffers.append(_BETWEEN[:gap])
            buffers += places[last]
            end = member.offset + member.size
            last += 1
        start = members[first].offset
        done = start + file.read_into(buffers, offset=start, size=end - start)
        if done < end:
            cut = next(one for one in members[first:last] if one.offset + one.size > done)
            raise DamagedMember(
                f"{sample.key}.{cut.ext} is damaged: the file ends at byte {done}, wanted "
                f"{cut.offset + cut.size}"
            )
        first = last


def check_hash(sample: Sample, member: Member, *, seen: str) -> None:
    """Raises DamagedMember unless the hash is the member's."""
    if seen != member.xxh64:
        raise DamagedMember(
            f"{sample.key}.{member.ext} is damaged: xxh64={seen}, wanted {member.xxh64}"
        )

"""Samples whose arrays are ``.npy`` files: read into place, side by side, without a copy."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from orchestrator.data.blocks import Allocate, Blocks
from orchestrator.data.decode import is_array, name_of
from orchestrator.data.members import check_hash, read_side_by_side
from orchestrator.data.npy import Layout, layout_of, npy_view
from orchestrator.data.rows import Bucket, Member, Sample
from orchestrator.storage.files import OpenFile

_MOST_LAYOUTS = 4096
_ALIGNED = 64  # bytes, so that an array begins where a vector of any width may

_Kind = tuple[Bucket, str, int]  # shape of the clip, extension and size of the member


class Together:
    """Memory for arrays in ``.npy`` files, those of one kind side by side (see ``stacked``).

    What the headers of a kind say is learned from the first one of it that is read: from then on
    the arrays of others are read straight to where they stay. Any thread may call.

    Args:
        allocate: where the memory comes from.
    """

    def __init__(self, *, allocate: Allocate) -> None:
        self._blocks = Blocks(allocate=allocate)
        self._layouts: dict[_Kind, _Known] = {}
        self._lock = threading.Lock()

    def place(self, samples: Sequence[Sample]) -> "Placed":
        """Memory for samples, each to be read by its place among them."""
        members = [[one for one in sample.members if is_array(one.ext)] for sample in samples]
        bucket, *buckets = {sample.bucket for sample in samples}
        known: dict[str, _Known] = {}
        for column in zip(*members, strict=False):  # side by side if all have one of a kind here
            (ext, size), *others = {(one.ext, one.size) for one in column}
            one = self._layouts.get((bucket, ext, size))
            if one is not None and not others and not buckets:
                known[ext] = one
        sizes = [
            -(-len(samples) * one.layout.nbytes // _ALIGNED) * _ALIGNED for one in known.values()
        ]
        shared: dict[str, _Shared] = {}
        if known:
            block, start = self._blocks.take(sum(sizes)), 0
            for (ext, one), size in zip(known.items(), sizes, strict=True):
                shared[ext] = _Shared(one, block[start : start + size], samples=len(samples))
                start += size
        return Placed(samples, members, shared=shared, learn=self.learn)

    def learn(self, sample: Sample, member: Member, layout: Layout) -> None:
        """What a header said."""
        has_place = layout.order == "C" and layout.nbytes > 0
        if has_place and len(layout.header) + layout.nbytes == member.size:
            with self._lock:
                if len(self._layouts) < _MOST_LAYOUTS:
                    self._layouts.setdefault(
                        (sample.bucket, member.ext, member.size), _Known(layout)
                    )


class Placed:
    """Samples and the memory that they are read into, by one thread."""

    def __init__(
        self,
        samples: Sequence[Sample],
        members: Sequence[Sequence[Member]],
        *,
        shared: "Mapping[str, _Shared]",
        learn: Callable[[Sample, Member, Layout], None],
    ) -> None:
        self._samples = samples
        self._members = members
        self._shared = shared
        self._learn = learn

    def read(self, place: int, file: OpenFile) -> dict[str, Any]:
        """The arrays of a sample by name, out of its shard.

        Raises:
            DamagedMember: if a member is not what its hash says.
            ValueError: if one is no ``.npy`` file.
        """
        sample, members = self._samples[place], self._members[place]
        rooms = [self._shared.get(one.ext) for one in members]
        pieces = [
            _memory(one) if room is None else room.pieces(place)
            for one, room in zip(members, rooms, strict=True)
        ]
        read_side_by_side(file, sample, members, pieces)
        arrays: dict[str, Any] = {}
        for member, room, piece in zip(members, rooms, pieces, strict=True):
            if room is None:
                array = self._alone(sample, member, piece[0])
            elif room.is_this_kind():
                check_hash(sample, member, seen=room.known.hash_with(piece[1]))
                array = room.values[place]
            else:  # another shape in as many bytes: it has no place here
                piece = _memory(member)
                read_side_by_side(file, sample, [member], [piece])
                array = self._alone(sample, member, piece[0])
            arrays[name_of(member.ext)] = array
        return arrays

    def _alone(self, sample: Sample, member: Member, data: memoryview) -> NDArray[Any]:
        check_hash(sample, member, seen=xxhash.xxh64_hexdigest(data))
        self._learn(sample, member, layout_of(data))
        return npy_view(data)


class _Known:
    """A header, and its part of the hash of a file."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._hash = xxhash.xxh64(layout.header)

    def hash_with(self, array: memoryview) -> str:
        """Xxh64 of the file that has this array behind the header."""
        whole = self._hash.copy()
        whole.update(array)
        return whole.hexdigest()


class _Shared:
    """Room for arrays of one kind: ``values`` is [N, ...]."""

    def __init__(self, known: _Known, memory: NDArray[np.uint8], *, samples: int) -> None:
        layout = known.layout
        own = memory[: samples * layout.nbytes]
        self.known = known
        self.values = own.view(layout.dtype).reshape(samples, *layout.shape)
        self._memory = own.data
        self._header = bytearray(layout.header)  # as it was read last
        self._header_place = memoryview(self._header)
        self._size = layout.nbytes

    def pieces(self, place: int) -> tuple[memoryview, ...]:
        """Where the file of one of them goes: its header, and its array."""
        return self._header_place, self._memory[place * self._size : (place + 1) * self._size]

    def is_this_kind(self) -> bool:
        """Whether the header that was read last is that of the kind."""
        return self._header == self.known.layout.header


def _memory(member: Member) -> tuple[memoryview, ...]:
    return (np.empty(member.size, dtype=np.uint8).data,)

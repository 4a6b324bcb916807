"""The order of one source's clips of one shape: a pure function of (seed, epoch, name).

No world size is in it: it gives places in an endless order, and a rank takes its slots of them.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def permutation(count: int, *, seed: int, epoch: int, name: str) -> NDArray[np.int64]:
    """The order of ``count`` things in one epoch of what is called ``name``."""
    return generator(seed, epoch, name).permutation(count)


def generator(*parts: object) -> np.random.Generator:
    """Random numbers that are a function of these values alone, on any machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def position_of(step: int, *, left_out: Sequence[int]) -> int:
    """The place in the order of data that a step reads: of those not left out, number ``step``.

    Args:
        step: from 0.
        left_out: places, in order.
    """
    position = step
    for one in left_out:
        if one > position:
            break
        position += 1
    return position


class ClipOrder:
    """Clips of one source and shape, epoch after epoch, each once an epoch.

    Shards are shuffled, and clips within blocks of so many shards: a machine needs the shards of a
    block or two at a time. One block is a shuffle of all clips.

    Args:
        shards: how many of the clips are in each shard, in the order of the clips.
        block: shards whose clips are shuffled together.
        seed: of the order.
        name: of the source and the shape.
    """

    def __init__(self, shards: Sequence[int], *, block: int, seed: int, name: str) -> None:
        self._shards = np.asarray([clips for clips in shards if clips], dtype=np.int64)
        self._starts = np.cumsum(self._shards) - self._shards
        self._block = block
        self._seed = seed
        self._name = name
        self._epoch = -1
        self._order: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # of shards
        self._ends: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # of blocks, in clips
        self._shuffled: tuple[int, NDArray[np.int64]] = -1, self._order  # a block, and its clips

    def __len__(self) -> int:
        """Clips in an epoch."""
        return int(self._shards.sum())

    @property
    def is_blocked(self) -> bool:
        """Whether there is more than one block."""
        return len(self._shards) > self._block

    def at(self, place: int) -> int:
        """Which clip comes at a place of the endless order; a pure function of it."""
        epoch, within = divmod(place, len(self))
        if epoch != self._epoch:
            self._begin(epoch)
        block = int(np.searchsorted(self._ends, within, side="right"))
        if self._shuffled[0] != block:
            self._shuffled = block, self._clips(block)
        start = int(self._ends[block - 1]) if block else 0
        return int(self._shuffled[1][within - start])

    def _begin(self, epoch: int) -> None:
        count = len(self._shards)
        self._epoch = epoch
        self._order = np.arange(count)
        if self.is_blocked:
            self._order = self._permutation(count, name=f"{self._name} shards")
        ends = np.cumsum(self._shards[self._order])
        self._ends = ends[[*range(self._block - 1, count - 1, self._block), count - 1]]
        self._shuffled = -1, self._order

    def _clips(self, block: int) -> NDArray[np.int64]:
        shards = self._order[block * self._block : (block + 1) * self._block]
        clips = np.concatenate(
            [self._starts[one] + np.arange(self._shards[one]) for one in shards.tolist()]
        )
        # The name of a single block is that of orders from before there were any.
        name = f"{self._name} block {block}" if self.is_blocked else self._name
        return clips[self._permutation(len(clips), name=name)]

    def _permutation(self, count: int, *, name: str) -> NDArray[np.int64]:
        return permutation(count, seed=self._seed, epoch=self._epoch, name=name)

"""The order of one source's clips of one shape: a pure function of (seed, epoch, name).

No world size is in it: it gives places in an endless order, and a rank takes its slots of them.
"""

import hashlib
from collections.abc import Sequence
from functools import partial

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
        self._clips = int(self._shards.sum())
        self._block = block
        self._seed = seed
        self._name = name
        # The block that was used last: where it begins in the endless order, and its clips.
        self._last: tuple[int, NDArray[np.int64]] = 0, np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        """Clips in an epoch."""
        return self._clips

    @property
    def is_blocked(self) -> bool:
        """Whether there is more than one block."""
        return len(self._shards) > self._block

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which clips come at places of the endless order, [N]; a pure function of each of them.

        Args:
            places: [N], the lowest first.
        """
        clips = np.empty_like(places)
        done = 0
        while done < len(places):
            start, block = self._last
            if not start <= places[done] < start + len(block):
                start, block = self._last = self._block_with(int(places[done]))
            end = done + int(places[done:].searchsorted(start + len(block)))
            clips[done:end] = block[places[done:end] - start]
            done = end
        return clips

    def _block_with(self, place: int) -> tuple[int, NDArray[np.int64]]:
        """Where the block of a place begins in the endless order, and its clips."""
        epoch, within = divmod(place, self._clips)
        shuffle = partial(permutation, seed=self._seed, epoch=epoch)
        shards, block, start, name = np.arange(len(self._shards)), 0, 0, self._name
        if (
            self.is_blocked
        ):  # the name of a single block is that of orders from before there were any
            shards = shuffle(len(shards), name=f"{self._name} shards")
            firsts = (np.cumsum(self._shards[shards]) - self._shards[shards])[:: self._block]
            block = int(firsts.searchsorted(within, side="right")) - 1
            start, name = int(firsts[block]), f"{self._name} block {block}"
            shards = shards[block * self._block : (block + 1) * self._block]
        clips = np.concatenate(
            [np.arange(int(self._shards[one])) + self._starts[one] for one in shards.tolist()]
        )
        return epoch * self._clips + start, clips[shuffle(len(clips), name=name)]

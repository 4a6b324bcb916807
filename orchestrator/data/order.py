"""The order of samples: pure functions of (seed, epoch, source, bucket) and the step.

No world size is in it: it gives global batches, and a rank takes its slots of them.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def permutation(count: int, *, seed: int, epoch: int, name: str) -> NDArray[np.int64]:
    """The order of ``count`` samples in one epoch of the bucket called ``name``."""
    digest = hashlib.blake2b(repr((seed, epoch, name)).encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)


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


class BucketOrder:
    """Global batches of one bucket, epoch after epoch.

    A batch may end one epoch and begin the next, so no sample is left out and none comes twice in
    its epoch.
    """

    def __init__(self, count: int, *, seed: int, name: str) -> None:
        self._count = count
        self._seed = seed
        self._name = name
        self._epoch = -1
        self._order: NDArray[np.int64] | None = None  # of that epoch alone: it may be long

    def batch(self, ordinal: int, *, size: int) -> list[int]:
        """Samples of batch number ``ordinal``, in slot order; a pure function of both."""
        first = ordinal * size
        return [self._at(position) for position in range(first, first + size)]

    def _at(self, position: int) -> int:
        epoch, place = divmod(position, self._count)
        if epoch != self._epoch or self._order is None:
            self._order = permutation(self._count, seed=self._seed, epoch=epoch, name=self._name)
            self._epoch = epoch
        return int(self._order[place])


def is_packed(slot: int, *, seed: int, position: int, share: float) -> bool:
    """Whether a slot of a batch holds independent images instead of a clip, in a share of all."""
    digest = hashlib.blake2b(
        repr((seed, "packed", position, slot)).encode(), digest_size=8
    ).digest()
    return int.from_bytes(digest, "little") < share * 2**64


class BucketSchedule:
    """Which bucket a batch is drawn from, each as often as its weight says and evenly spread."""

    def __init__(self, weights: Sequence[float]) -> None:
        if not weights or min(weights) <= 0:
            raise ValueError(f"weights={list(weights)}, wanted at least one, all above 0")
        total = sum(weights)
        self._shares = [weight / total for weight in weights]
        self._taken = [0] * len(weights)
        self._step = 0

    def at(self, step: int) -> tuple[int, int]:
        """Bucket of a step, and how many earlier steps drew from it; a pure function of both."""
        if step < self._step:
            self._taken = [0] * len(self._shares)
            self._step = 0
        while True:
            owed = [
                (self._step + 1) * share - taken
                for share, taken in zip(self._shares, self._taken, strict=True)
            ]
            bucket = owed.index(max(owed))
            ordinal = self._taken[bucket]
            self._taken[bucket] += 1
            self._step += 1
            if self._step == step + 1:
                return bucket, ordinal

"""The order of samples: pure functions of (seed, epoch, source, bucket) and the step.

No world size is in it: it gives global batches, and a rank takes its slots of them.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=64)
def permutation(count: int, *, seed: int, epoch: int, name: str) -> NDArray[np.int64]:
    """The order of ``count`` samples in one epoch of the bucket called ``name``."""
    digest = hashlib.blake2b(repr((seed, epoch, name)).encode(), digest_size=16).digest()
    key = np.frombuffer(digest, dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)


def batch_rows(ordinal: int, *, batch: int, count: int, seed: int, name: str) -> list[int]:
    """Samples of a bucket's batch number ``ordinal``, in slot order.

    Batches follow each other through whole epochs: a batch may end one epoch and begin the next,
    so no sample is left out and none comes twice in its epoch.
    """
    first = ordinal * batch
    return [
        int(permutation(count, seed=seed, epoch=position // count, name=name)[position % count])
        for position in range(first, first + batch)
    ]


class BucketSchedule:
    """Which bucket a step draws from, each as often as its weight says and evenly spread."""

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

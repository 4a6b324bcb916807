"""Whose turn it is: shapes among steps, and sources among the slots of a batch.

Pure functions of a number and the weights, with memory of the last call: numbers that go up cost
little.
"""

import hashlib
from collections.abc import Sequence


def is_packed(slot: int, *, seed: int, position: int, share: float) -> bool:
    """Whether a slot of a batch holds independent images instead of a clip, in a share of all."""
    digest = hashlib.blake2b(
        repr((seed, "packed", position, slot)).encode(), digest_size=8
    ).digest()
    return int.from_bytes(digest, "little") < share * 2**64


class BucketSchedule:
    """Which bucket a batch is drawn from, each as often as its weight says and evenly spread."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._shares = _shares(weights)
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


class SlotShares:
    """How many slots of each batch a source gets: all of them together as its weight says.

    Args:
        weights: of the sources, above 0.
        size: slots of a batch.
    """

    def __init__(self, weights: Sequence[float], *, size: int) -> None:
        self._shares = _shares(weights)
        self._size = size
        self._taken = [0] * len(weights)
        self._ordinal = 0

    def at(self, ordinal: int) -> tuple[list[int], list[int]]:
        """Slots of all earlier batches, and of batch number ``ordinal``, by source."""
        if ordinal < self._ordinal:
            self._taken = [0] * len(self._shares)
            self._ordinal = 0
        while self._ordinal < ordinal:
            counts = self._counts()
            self._taken = [a + b for a, b in zip(self._taken, counts, strict=True)]
            self._ordinal += 1
        return list(self._taken), self._counts()

    def _counts(self) -> list[int]:
        """Whole slots that each is owed, then one each to those that are owed the most more."""
        due = (self._ordinal + 1) * self._size
        owed = [share * due - took for share, took in zip(self._shares, self._taken, strict=True)]
        counts = [max(0, int(one)) for one in owed]
        while sum(counts) != self._size:
            rest = [one - count for one, count in zip(owed, counts, strict=True)]
            if sum(counts) < self._size:
                counts[rest.index(max(rest))] += 1
            else:
                filled = [source for source, count in enumerate(counts) if count]
                counts[min(filled, key=lambda source: rest[source])] -= 1
        return counts


def _shares(weights: Sequence[float]) -> list[float]:
    if not weights or min(weights) <= 0:
        raise ValueError(f"weights={list(weights)}, wanted at least one, all above 0")
    total = sum(weights)
    return [weight / total for weight in weights]

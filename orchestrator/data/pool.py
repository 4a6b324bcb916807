"""Clips of one shape from one source or several: who is in which slot of which batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.index import Bucket, Index
from orchestrator.data.order import ClipOrder, generator
from orchestrator.data.schedule import SlotShares


@dataclass(frozen=True)
class Part:
    """A source in a mix.

    Attributes:
        name: in the mix; empty for one that is alone.
        index: of its clips.
        weight: of the clips that are drawn, those that are its own, relative to the other parts.
    """

    name: str
    index: Index
    weight: float = 1.0


class Draw(NamedTuple):
    """A clip in a slot.

    Attributes:
        part: its number among the parts.
        row: of the part's index.
        place: in the endless order of the part's clips of this shape.
    """

    part: int
    row: int
    place: int


class Pool:
    """Endless batches of one shape, in which parts take turns slot by slot.

    Args:
        parts: all of them.
        rows: those of this shape, by number of the part, in the order of its index.
        size: slots of a batch.
        block: shards whose clips are shuffled together.
        seed: of the order.
        name: of the shape.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        rows: Mapping[int, Sequence[int]],
        size: int,
        block: int,
        seed: int,
        name: str,
    ) -> None:
        self._size = size
        self._seed = seed
        self._name = name
        self._parts = list(rows)
        self._rows = [np.asarray(some, dtype=np.int64) for some in rows.values()]
        self._orders = [
            ClipOrder(
                parts[part].index.shard_sizes(some),
                block=block,
                seed=seed,
                name=f"{name} of {parts[part].name}" if parts[part].name else name,
            )
            for part, some in rows.items()
        ]
        self._weights = [
            parts[part].weight * len(some) / len(parts[part].index) for part, some in rows.items()
        ]
        self._shares = SlotShares(self._weights, size=size)

    @property
    def weight(self) -> float:
        """Of the clips that are drawn from all parts, those of this shape."""
        return sum(self._weights)

    @property
    def clips(self) -> int:
        """Clips of this shape."""
        return sum(len(order) for order in self._orders)

    @property
    def is_blocked(self) -> bool:
        """Whether any part's clips are shuffled in more than one block."""
        return any(order.is_blocked for order in self._orders)

    def draws(self, ordinal: int, *, slots: Sequence[int]) -> list[Draw]:
        """What is in some slots of batch number ``ordinal``; a pure function of both.

        Args:
            ordinal: from 0.
            slots: of the batch, the lowest first.
        """
        wanted = np.asarray(slots, dtype=np.int64)
        if len(self._orders) == 1:
            return self._drawn(0, places=ordinal * self._size + wanted)
        firsts, counts = self._shares.at(ordinal)
        whose = self._whose(ordinal, counts=counts)
        draws: dict[int, Draw] = {}
        for member, first in enumerate(firsts):
            own = wanted[whose[wanted] == member]
            before = np.cumsum(whose == member) - 1
            draws.update(
                zip(own.tolist(), self._drawn(member, places=first + before[own]), strict=True)
            )
        return [draws[slot] for slot in slots]

    def _drawn(self, member: int, *, places: NDArray[np.int64]) -> list[Draw]:
        """What is at some places of a member's order, the lowest first."""
        rows = self._rows[member][self._orders[member].at(places)]
        part = self._parts[member]
        return [
            Draw(part, row, place)
            for row, place in zip(rows.tolist(), places.tolist(), strict=True)
        ]

    def _whose(self, ordinal: int, *, counts: Sequence[int]) -> NDArray[np.int64]:
        """Member of every slot: mixed, so that each rank gets some of each."""
        members = np.repeat(np.arange(len(counts)), counts)
        return generator(self._seed, "mix", self._name, ordinal).permutation(members)


def shapes_of(parts: Sequence[Part]) -> list[Bucket]:
    """Every shape of the clips of all parts."""
    return list(dict.fromkeys(shape for part in parts for shape in part.index.buckets))


def buckets_of(parts: Sequence[Part]) -> dict[Bucket, dict[int, list[int]]]:
    """Rows of every shape by number of the part."""
    buckets: dict[Bucket, dict[int, list[int]]] = {}
    for number, part in enumerate(parts):
        for shape, rows in part.index.buckets.items():
            buckets.setdefault(shape, {})[number] = rows
    return buckets


def alone(index: Index) -> tuple[Part, ...]:
    """A source that is not mixed with others."""
    return (Part(name="", index=index),)


def identity_of(parts: Sequence[Part]) -> Any:
    """JSON that tells these clips and how they are mixed from others."""
    if len(parts) == 1:
        return parts[0].index.digest
    return {part.name: [part.index.digest, part.weight] for part in parts}

"""Slots of a batch that hold independent images instead of a clip."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from orchestrator.data.index import Bucket
from orchestrator.data.pool import Draw, Part, Pool
from orchestrator.data.schedule import is_packed


@dataclass(frozen=True)
class Image:
    """A clip, or a single frame, that gives one image to a packed slot, and its wordings.

    ``instead`` is the key of the one that it stands in for, if that cannot be read.
    """

    key: str
    instead: str | None
    sample: dict[str, Any]
    captions: tuple[str, ...]
    part: str
    place: int


@dataclass(frozen=True)
class Packing:
    """Some slots hold so many independent images instead of a clip.

    Attributes:
        share: of the slots.
        images: in one slot.
        parts: where they are; empty for other clips of the slot's own bucket.
    """

    share: float
    images: int
    parts: tuple[Part, ...] = ()


class PackedSlots:
    """The images of packed slots, in an order of their own, a function of (seed, position, slot).

    Args:
        packing: how many, and of what.
        clips: the parts that clips are drawn from, if the images are theirs.
        buckets: rows of those by shape and number of the part.
        seed: of the order.
        batch: slots of a step over all ranks.
        block: shards whose clips are shuffled together.
    """

    def __init__(
        self,
        packing: Packing,
        *,
        clips: Sequence[Part],
        buckets: Mapping[Bucket, Mapping[int, Sequence[int]]],
        seed: int,
        batch: int,
        block: int,
    ) -> None:
        self._packing = packing
        self._seed = seed
        self.parts = packing.parts or clips
        rows = {f"images {shape}": some for shape, some in buckets.items()}
        if packing.parts:
            rows = {"images": {n: range(len(one.index)) for n, one in enumerate(packing.parts)}}
        self._pools = [
            Pool(
                self.parts,
                rows=some,
                size=batch * packing.images,
                block=block,
                seed=seed,
                name=name,
            )
            for name, some in rows.items()
        ]

    @property
    def is_blocked(self) -> bool:
        """Whether any images are shuffled in more than one block."""
        return any(pool.is_blocked for pool in self._pools)

    def draws(
        self, slots: Sequence[int], *, position: int, bucket: int, ordinal: int
    ) -> list[tuple[Draw, ...]]:
        """The images of slots; none of one that holds a clip.

        Args:
            slots: of the global batch, the lowest first.
            position: of the step's batch in the order of data.
            bucket: number of that from which the step takes its clips.
            ordinal: how many earlier batches took theirs from it.
        """
        share, images = self._packing.share, self._packing.images
        packed = [
            slot
            for slot in slots
            if is_packed(slot, seed=self._seed, position=position, share=share)
        ]
        if self._packing.parts:
            bucket, ordinal = 0, position
        places = [slot * images + image for slot in packed for image in range(images)]
        drawn = iter(self._pools[bucket].draws(ordinal, slots=places))
        by_slot = {slot: tuple(islice(drawn, images)) for slot in packed}
        return [by_slot.get(slot, ()) for slot in slots]

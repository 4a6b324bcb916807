"""Slots of a batch that hold independent images instead of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.data.index import Bucket, Index
from orchestrator.data.order import BucketOrder, is_packed
from orchestrator.data.reader import Reader
from orchestrator.data.window import window_draw


@dataclass(frozen=True)
class Image:
    """A clip, or a single frame, that gives one image to a packed slot, and its wordings."""

    key: str
    sample: dict[str, Any]
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Packing:
    """Some slots hold so many independent images instead of a clip.

    Attributes:
        share: of the slots.
        images: in one slot.
        index: where they are; None for other clips of the slot's own bucket.
    """

    share: float
    images: int
    index: Index | None = None


class PackedSlots:
    """The images of packed slots, in an order of their own, a function of (seed, position, slot).

    Args:
        packing: how many, and of what.
        reader: of the index with the images.
        buckets: rows of the clips by shape, if the images are theirs.
        seed: of the order.
        batch: slots of a step over all ranks.
        captions: whether captions are read at all.
    """

    def __init__(
        self,
        packing: Packing,
        *,
        reader: Reader,
        buckets: Sequence[tuple[Bucket, Sequence[int]]],
        seed: int,
        batch: int,
        captions: bool,
    ) -> None:
        self._packing = packing
        self._reader = reader
        self._seed = seed
        self._batch = batch
        self._captions = captions
        self._rows = [rows for _, rows in buckets]
        names = [f"images {shape}" for shape, _ in buckets]
        if packing.index is not None:
            self._rows, names = [range(len(packing.index))], ["images"]
        self._orders = [
            BucketOrder(len(rows), seed=seed, name=name)
            for rows, name in zip(self._rows, names, strict=True)
        ]

    def at(self, slot: int, *, position: int, bucket: int, ordinal: int) -> tuple[Image, ...]:
        """The images of a slot; none if it holds a clip.

        Args:
            slot: of the global batch.
            position: of the step's batch in the order of data.
            bucket: from which the step takes its clips.
            ordinal: how many earlier batches took theirs from it.
        """
        packing = self._packing
        if not is_packed(slot, seed=self._seed, position=position, share=packing.share):
            return ()
        if packing.index is not None:
            bucket, ordinal = 0, position
        order = self._orders[bucket].batch(ordinal * self._batch + slot, size=packing.images)
        draw = window_draw(slot, seed=self._seed, position=position)
        read = [self._reader.read(self._rows[bucket][place], draw=draw) for place in order]
        return tuple(
            Image(
                key=sample.key,
                sample=arrays,
                captions=sample.captions if self._captions else (),
            )
            for sample, arrays in read
        )

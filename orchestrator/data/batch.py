"""One rank's part of an optimizer step: which clips it is to read, and what they were."""

from dataclasses import dataclass
from typing import Any

from orchestrator.data.index import Bucket
from orchestrator.data.packing import Image
from orchestrator.data.pool import Draw


@dataclass(frozen=True)
class Plan:
    """What one rank is to read for a step, before anything of it is read.

    Attributes:
        step: optimizer step, from 0.
        position: in the order of data: the step, where no batch before was left out.
        bucket: frames, height and width of every clip of this step on every rank.
        ordinal: how many batches of the order before this one are of its bucket.
        size: clips of the step over all ranks.
        slots: of the global batch: ``rank::world_size``.
        draws: the clip of each slot.
        packed: of each slot, the images that it holds instead, or none.
    """

    step: int
    position: int
    bucket: Bucket
    ordinal: int
    size: int
    slots: tuple[int, ...]
    draws: tuple[Draw, ...]
    packed: tuple[tuple[Draw, ...], ...]


@dataclass(frozen=True)
class StepBatch:
    """One rank's clips of one optimizer step, one of everything per slot.

    Attributes:
        plan: which they are.
        keys: sample keys.
        instead: key of the slot's own clip if that cannot be read and the one in ``keys`` stands in
            for it, else None.
        parts: names of the sources in a mix; empty where clips are of one.
        samples: decoded arrays by name.
        captions: wordings; none if the stream reads no captions.
        fps: frames per second.
        packed: for a slot that holds independent images instead of its clip, those; else empty.
    """

    plan: Plan
    keys: tuple[str, ...]
    instead: tuple[str | None, ...]
    parts: tuple[str, ...]
    samples: tuple[dict[str, Any], ...]
    captions: tuple[tuple[str, ...], ...]
    fps: tuple[float, ...]
    packed: tuple[tuple[Image, ...], ...]

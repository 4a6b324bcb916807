"""Rows of an audit: which clips each step was trained on, as every rank puts them down."""

from dataclasses import dataclass

from pydantic import Field

from models.config import Strict
from orchestrator.data.batch import StepBatch
from orchestrator.data.index import Bucket


class Use(Strict):
    """One rank's clips of one step.

    Attributes:
        step: optimizer steps done with it, from 1.
        position, bucket, ordinal: as ``StepBatch`` has them.
        slots: of the global batch.
        keys: of the clips, one per slot.
        parts, places: as ``StepBatch`` and its draws have them, one per slot; empty where clips are
            of one source: a batch then takes the places from ``ordinal`` times its size on.
        packed: for slots that hold independent images instead of their clip, the keys of those.
        packed_parts, packed_places: of those images, as ``parts`` and ``places``.
        instead: for slots whose own clip could not be read, the key of that: the one in ``keys``
            stood in for it.
        images_instead: likewise by slot for images, each by its place in ``packed``.
    """

    step: int
    position: int
    bucket: Bucket
    ordinal: int
    slots: tuple[int, ...]
    keys: tuple[str, ...]
    parts: tuple[str, ...] = ()
    places: tuple[int, ...] = ()
    packed: dict[int, tuple[str, ...]] = Field(default_factory=dict)
    packed_parts: dict[int, tuple[str, ...]] = Field(default_factory=dict)
    packed_places: dict[int, tuple[int, ...]] = Field(default_factory=dict)
    instead: dict[int, str] = Field(default_factory=dict)
    images_instead: dict[int, dict[int, str]] = Field(default_factory=dict)


class Head(Strict):
    """First line of a rank's part of a piece.

    Attributes:
        before: the piece before; None for the first one.
        start: steps done before it.
        stop: steps done with it.
        rank, world_size: of the process among those that read clips of their own.
    """

    before: str | None
    start: int
    stop: int
    rank: int
    world_size: int


@dataclass(frozen=True)
class Part:
    """What one rank trained on between two checkpoints."""

    head: Head
    uses: tuple[Use, ...]

    def to_bytes(self) -> bytes:
        """JSON lines: the head, then a line a step."""
        lines = [self.head.model_dump_json()]
        lines += [use.model_dump_json(exclude_defaults=True) for use in self.uses]
        return ("\n".join(lines) + "\n").encode()

    @classmethod
    def parse(cls, raw: bytes) -> "Part":
        """Reads ``to_bytes``.

        Raises:
            ValueError: if it is something else.
        """
        first, *rest = raw.decode().removesuffix("\n").split("\n")
        return cls(
            head=Head.model_validate_json(first),
            uses=tuple(Use.model_validate_json(line) for line in rest),
        )


def use_of(batch: StepBatch) -> Use:
    """What a step's clips are put down as."""
    plan = batch.plan
    is_mix = any(batch.parts)
    packed = {slot: images for slot, images in zip(plan.slots, batch.packed, strict=True) if images}
    mixed = {slot: some for slot, some in packed.items() if any(image.part for image in some)}
    images_instead = {
        slot: {number: one.instead for number, one in enumerate(some) if one.instead is not None}
        for slot, some in packed.items()
    }
    return Use(
        step=plan.step + 1,
        position=plan.position,
        bucket=plan.bucket,
        ordinal=plan.ordinal,
        slots=plan.slots,
        keys=batch.keys,
        parts=batch.parts if is_mix else (),
        places=tuple(draw.place for draw in plan.draws) if is_mix else (),
        packed={slot: tuple(image.key for image in some) for slot, some in packed.items()},
        packed_parts={slot: tuple(image.part for image in some) for slot, some in mixed.items()},
        packed_places={slot: tuple(image.place for image in some) for slot, some in mixed.items()},
        instead={
            slot: key
            for slot, key in zip(plan.slots, batch.instead, strict=True)
            if key is not None
        },
        images_instead={slot: some for slot, some in images_instead.items() if some},
    )

"""Which networks sampling goes through, and what each makes of the one before."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from models.nn.unet_config import UNetConfig
from orchestrator.recipe.fields import Size
from orchestrator.recipe.stage import Stage

Stages = Mapping[str, Stage]
_FPS_TOLERANCE = 1e-3  # relative: recipes write 1.714286 for 12 / 7


@dataclass(frozen=True)
class Upsampling:
    """What a network of a cascade starts from, derived from the two clips.

    Attributes:
        kind: ``space`` enlarges every frame, ``time`` puts frames between, ``given`` does so too
            and keeps the known frames as they are.
        size: height and width of the smaller clip.
        factor: how many times as many pixels along a side, or frames.
    """

    kind: Literal["space", "time", "given"]
    size: Size
    factor: int


def upsampling(stage: Stage, *, parent: Stage) -> Upsampling:
    """How a stage enlarges its parent's clip.

    Raises:
        ValueError: one line, if no such step leads from the one clip to the other.
    """
    small, large = parent.training.clip, stage.training.clip
    shapes = (
        f"clip of {large.frames}x{large.size[0]}x{large.size[1]} at {large.fps} fps from "
        f"{parent.id}'s {small.frames}x{small.size[0]}x{small.size[1]} at {small.fps} fps"
    )
    if stage.training.unet.given_frames:
        skip = (large.frames - 1) // max(small.frames - 1, 1)
        if small.size != large.size or large.frames != (small.frames - 1) * skip + 1 or skip < 2:
            raise ValueError(f"{shapes}, wanted the same size and (n - 1) * skip + 1 frames")
        if not math.isclose(large.fps, skip * small.fps, rel_tol=_FPS_TOLERANCE):
            raise ValueError(f"{shapes}, wanted {skip} times its fps, as for its frames")
        return Upsampling(kind="given", size=small.size, factor=skip)
    if small.size == large.size:
        factor = large.frames // small.frames
        if factor < 2 or large.frames % small.frames or large.fps != factor * small.fps:
            raise ValueError(f"{shapes}, wanted a whole multiple of its frames and of its fps")
        return Upsampling(kind="time", size=small.size, factor=factor)
    factor = large.size[0] // small.size[0]
    if factor < 2 or large.size != (small.size[0] * factor, small.size[1] * factor):
        raise ValueError(f"{shapes}, wanted a whole multiple of both sides")
    if large.frames > 1 and (large.frames > small.frames or large.fps != small.fps):
        raise ValueError(f"{shapes}, wanted its fps and at most its frames, or 1 frame")
    return Upsampling(kind="space", size=small.size, factor=factor)


def chain(stages: Stages, last: str, *, distilled: bool = False) -> tuple[Stage, ...]:
    """The stages whose networks make a clip, in sampling order.

    Args:
        stages: all of the recipe's, by id.
        last: the one whose clip is wanted.
        distilled: take the last student of each network that has one.
    """
    links: list[Stage] = []
    current: str | None = last
    while current is not None:
        links.append(_student(stages, current) if distilled else stages[current])
        current = stages[current].upsamples
    return tuple(reversed(links))


def result_stage(stages: Stages) -> Stage | None:
    """The stage whose clips are the run's: the last one that no other goes on from."""
    used = {
        name
        for stage in stages.values()
        for name in (stage.upsamples, stage.starts_from)
        if name is not None
    }
    results = [
        stage
        for stage in stages.values()
        if stage.kind == "train" and stage.id not in used and makes_clips(stage)
    ]
    return results[-1] if results else None


def makes_clips(stage: Stage) -> bool:
    """Whether a stage trains a network that turns noise into a clip."""
    if stage.train is None:
        return False
    return stage.latents is not None or isinstance(stage.train.model, UNetConfig)


def _student(stages: Stages, teacher: str) -> Stage:
    for stage in stages.values():
        if stage.distill is not None and stage.distill.teacher == teacher:
            return _student(stages, stage.id)
    return stages[teacher]

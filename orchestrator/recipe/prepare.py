"""What `rushes prepare` makes of raw videos: a strict configuration with plain defaults."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from models.config import Strict
from orchestrator.errors import UserError
from orchestrator.recipe.fields import Share, Size, Slug
from orchestrator.recipe.refusals import refuse_secrets
from orchestrator.recipe.tree import Tree, is_mapping
from orchestrator.recipe.yaml_file import apply_override, in_one_line, read_tree

OWN_SCORES = (
    *("duration_s", "height", "width", "fps"),
    *("motion", "static", "black", "sharpness", "brightness"),
)
StoredPart = Literal["clip", "bucket"]

ROUNDING_S = 2e-3  # some containers count in milliseconds: 2 s of them may be 1.999
_LEAST_S, _MOST_S = 1.0, 10.0  # of a clip, where no bucket is for videos


class Bucket(Strict):
    """Frames, height and width that training sees of clips of a kind; one frame is an image."""

    frames: PositiveInt
    size: Size
    fps: PositiveFloat = 8.0

    @property
    def is_image(self) -> bool:
        """Whether images go there, and videos do not."""
        return self.frames == 1

    @property
    def duration_s(self) -> float:
        """Seconds of its frames."""
        return self.frames / self.fps

    def frames_in(self, duration_s: float) -> int:
        """Whole frames, at its rate, that a stretch of video gives."""
        return math.floor((duration_s + ROUNDING_S) * self.fps)

    @model_validator(mode="after")
    def _has_even_sides(self) -> Self:
        if not self.is_image and any(side % 2 for side in self.size):
            raise ValueError(f"size={list(self.size)}, wanted even sides, as H.264 has")
        return self


class Scenes(Strict):
    """Cuts, found by scenedetect's ContentDetector.

    ``threshold`` is how much of hue, saturation and brightness changes at a cut, of 255.
    """

    threshold: PositiveFloat = 27.0
    min_s: NonNegativeFloat = 0.5  # between two cuts


class Clips(Strict):
    """Lengths that scenes are cut into; None: of the shortest and of the longest bucket."""

    min_s: PositiveFloat | None = None
    max_s: PositiveFloat | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min_s is not None and self.max_s is not None and self.min_s > self.max_s:
            raise ValueError(f"min_s={self.min_s}, wanted at most max_s={self.max_s}")
        return self


class Range(Strict):
    """Scores that a clip may have, both ends included."""

    min: float | None = None
    max: float | None = None

    def misses(self, score: float) -> str | None:
        """Why a score is not in it; None if it is. What is no number never is."""
        if self.min is not None and not score >= self.min:
            return f"{score:.4g}, wanted at least {self.min:g}"
        if self.max is not None and not score <= self.max:
            return f"{score:.4g}, wanted at most {self.max:g}"
        return None


class Dedup(Strict):
    """Clips whose perceptual hashes differ in few bits are one: the largest is kept."""

    distance: NonNegativeInt = Field(default=4, le=16)  # bits of 64, in the mean over frames


class Model(Strict):
    """A plug-in that looks at frames of a clip; ``scores`` are the names that it gives.

    ``version`` is to be raised when its code or weights change: its results are then made anew.
    """

    id: Slug
    use: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")  # module:Class
    options: dict[str, Any] = Field(default_factory=dict)  # handed to the class by name
    frames: PositiveInt = 8  # evenly over the clip
    scores: tuple[str, ...] = ()
    cpus: PositiveFloat = 1.0
    gpus: NonNegativeFloat = 0.0
    version: NonNegativeInt = 0


class Encoding(Strict):
    """H.264 as clips are stored in it."""

    crf: Annotated[int, Field(ge=0, le=51)] = 18
    gop: PositiveInt = 24  # frames between those that can be decoded alone
    preset: Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow"] = (
        "medium"
    )


def _buckets() -> tuple[Bucket, ...]:
    sizes = ((144, 256), (192, 192), (256, 144))
    return tuple(Bucket(frames=frames, size=size) for frames in (17, 1) for size in sizes)


def _keep() -> dict[str, Range | None]:
    return {"black": Range(max=0.5), "static": Range(max=0.95)}


class Prepare(Strict):
    """All of it.

    ``keep`` has the scores that a clip must have; names that are not in it keep their default, and
    null takes one away. ``scorers`` see every clip before it is chosen, ``captioners`` those that
    were, as they are stored.
    """

    buckets: tuple[Bucket, ...] = Field(default_factory=_buckets, min_length=1)
    scenes: Scenes | None = Scenes()  # None: every video is one scene
    clips: Clips = Clips()
    scorers: tuple[Model, ...] = ()
    keep: dict[str, Range | None] = Field(default_factory=_keep)
    dedup: Dedup | None = Dedup()  # None: doubles stay
    max_crop: Share = 0.5  # part of the picture that may be lost to the bucket's shape
    # All of a clip, of which training sees its bucket's frames, others at each reading; or only so
    # many, from its start.
    store: StoredPart = "clip"
    encoding: Encoding = Encoding()
    captioners: tuple[Model, ...] = ()
    shard_bytes: Annotated[int, Field(ge=1_000_000)] = 256_000_000
    unit_videos: PositiveInt = 8  # that one worker takes at a time
    keep_encoded: bool = True  # so that another shard_bytes or captioner encodes nothing anew

    @property
    def min_s(self) -> float:
        """Seconds that a clip has at least."""
        shortest_s = min(self._durations_s or [_LEAST_S])
        return self.clips.min_s or min(shortest_s, self.clips.max_s or shortest_s)

    @property
    def max_s(self) -> float:
        """Seconds that a clip has at most."""
        return self.clips.max_s or max([*(self._durations_s or [_MOST_S]), self.min_s])

    @property
    def _durations_s(self) -> list[float]:
        return [one.duration_s for one in self.buckets if not one.is_image]

    @property
    def score_names(self) -> tuple[str, ...]:
        """Every score that a clip can be chosen by."""
        return (*OWN_SCORES, *(name for one in self.scorers for name in one.scores))

    @field_validator("keep", mode="before")
    @classmethod
    def _beside_defaults(cls, value: object) -> object:
        return {**_keep(), **value} if is_mapping(value) else value

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        unknown = sorted(self.keep.keys() - set(self.score_names))
        if unknown:
            raise ValueError(
                f"keep.{unknown[0]}: no such score, wanted one of {', '.join(self.score_names)}"
            )
        names = [*self.score_names, *(name for one in self.captioners for name in one.scores)]
        ids = [one.id for one in (*self.scorers, *self.captioners)]
        for what, given in (("a score", names), ("a model", ids)):
            twice = sorted({name for name in given if given.count(name) > 1})
            if twice:
                raise ValueError(f"{twice[0]} is the name of {what} twice, wanted it once")
        return self


def load_prepare(path: Path | None, *, overrides: Sequence[str] = ()) -> Prepare:
    """Reads, overrides and validates a configuration; without a file, the defaults.

    Raises:
        UserError: one line with the field, the value seen and the value wanted.
    """
    tree: Tree = {} if path is None else read_tree(path, what="config")
    origin = "prepare" if path is None else str(path)
    for override in overrides:
        apply_override(tree, override)
    refuse_secrets(tree, origin=origin)  # it is kept beside the shards
    try:
        return Prepare.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise UserError(f"{origin}: {in_one_line(error, tree)}") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{origin}: {error}") from None

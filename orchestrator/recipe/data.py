"""Where clips come from."""

from typing import Self

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from models.config import Strict
from orchestrator.recipe.fields import Size

TRAIN, EVAL, IMAGES = "train", "eval", "images"


class ClipShape(Strict):
    """Geometry of the clips of one shape bucket; one frame is an image."""

    frames: PositiveInt = 9
    size: Size = (32, 32)
    share: PositiveFloat = 1.0  # part of the clips, relative to the other shapes


class Digits(Strict):
    """The default source: real handwritten digits, coloured and moving, made on first use.

    ``data.train`` draws from digits that ``data.eval`` never shows.
    """

    clips: PositiveInt
    fps: PositiveFloat = 8.0
    shapes: tuple[ClipShape, ...] = (ClipShape(),)
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _has_a_shape(self) -> Self:
        if not self.shapes:
            raise ValueError("shapes is empty, wanted at least one {frames, size}")
        return self


class Source(Strict):
    """Indexed shards at ``uri``; with ``digits`` they are written there on first use."""

    uri: str = Field(min_length=1)
    digits: Digits | None = None


class Data(Strict):
    """Training and held-out clips, and the local cache in front of them.

    With ``images``, stages of single frames and slots of ``packed_images`` are filled from there
    and not with frames of ``train``, whose clips then need no captions where no network of videos
    reads them. With ``audit``, every rank keeps a log of the clips that it trained on.
    """

    train: Source
    eval: Source
    images: Source | None = None
    cache_dir: str | None = None  # default: a folder under the system's temporary folder
    cache_bytes: PositiveInt = 20_000_000_000
    memory_bytes: NonNegativeInt = 512_000_000  # decoded samples kept in memory per worker
    audit: bool = False

    @property
    def sources(self) -> dict[str, Source]:
        """The named ones, by field."""
        named = {TRAIN: self.train, EVAL: self.eval, IMAGES: self.images}
        return {name: source for name, source in named.items() if source is not None}

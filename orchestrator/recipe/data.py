"""Where clips come from."""

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from models.config import Strict
from orchestrator.recipe.fields import Size, Slug

TRAIN, EVAL, IMAGES = "train", "eval", "images"
MIX = "mix"


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


class MixedSource(Source):
    """A source in a mix: ``weight`` of the clips are drawn from it, relative to the others."""

    weight: PositiveFloat = 1.0


class Mix(Strict):
    """Sources by name, from which every batch takes clips as they weigh."""

    mix: dict[Slug, MixedSource] = Field(min_length=1)


def _source_or_mix(value: object) -> str:
    is_mix = isinstance(value, Mix) or (isinstance(value, dict) and "mix" in value)
    return "<mix>" if is_mix else "<source>"


Sources = Annotated[
    Annotated[Source, Tag("<source>")] | Annotated[Mix, Tag("<mix>")],
    Discriminator(_source_or_mix),
]


class Data(Strict):
    """Training and held-out clips, and the local cache in front of them.

    With ``images``, stages of single frames and slots of ``packed_images`` are filled from there
    and not with frames of ``train``, whose clips then need no captions where no network of videos
    reads them. With ``audit``, every rank keeps a log of the clips that it trained on. Up to
    ``bad_samples`` clips of a stage may be damaged or not decodable: others stand in for them.
    """

    train: Sources
    eval: Source
    images: Sources | None = None
    shuffle_shards: PositiveInt = 16  # clips of so many shards are shuffled together
    workers: NonNegativeInt = 1  # threads per rank that read ahead; 0: none, steps wait for clips
    cache_dir: str | None = None  # default: a folder under the system's temporary folder
    cache_bytes: PositiveInt = 20_000_000_000
    memory_bytes: NonNegativeInt = 512_000_000  # decoded samples kept in memory per worker
    audit: bool = False
    bad_samples: NonNegativeInt = 0

    @property
    def sources(self) -> dict[str, Source]:
        """All of them, by field: ``train``, or ``train.mix.NAME``, and so on."""
        found: dict[str, Source] = {}
        for field in (TRAIN, EVAL, IMAGES):
            found |= self.of(field)
        return found

    def of(self, field: str) -> dict[str, Source]:
        """The sources of one field, by field; none if the recipe has not got it."""
        match getattr(self, field):
            case Mix(mix=mix):
                return {f"{field}.{MIX}.{name}": source for name, source in mix.items()}
            case Source() as source:
                return {field: source}
            case _:
                return {}

    def parts(self, field: str) -> dict[str, Source]:
        """The sources of one field by their name in its mix; empty for one that is alone."""
        return {name.partition(f".{MIX}.")[2]: source for name, source in self.of(field).items()}

    def moved(self, resolve: Callable[[str], str]) -> "Data":
        """The same with every source's URI resolved."""
        fields = (TRAIN, EVAL, IMAGES)
        return self.model_copy(
            update={name: _moved(getattr(self, name), resolve) for name in fields}
        )


def _moved(sources: Source | Mix | None, resolve: Callable[[str], str]) -> Source | Mix | None:
    match sources:
        case Mix(mix=mix):
            moved = {
                name: one.model_copy(update={"uri": resolve(one.uri)}) for name, one in mix.items()
            }
            return Mix(mix=moved)
        case Source(uri=uri):
            return sources.model_copy(update={"uri": resolve(uri)})
        case None:
            return None

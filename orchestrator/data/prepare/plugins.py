"""Models of others: scores and captions of clips, by a class that the configuration names."""

# Shape letters in this file:
#   T frames   H height   W width   C channels (3, RGB)

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from itertools import groupby, islice
from operator import itemgetter
from typing import Any, Protocol

import numpy as np

from orchestrator.data.decode import decode
from orchestrator.data.names import is_utf8
from orchestrator.data.prepare.media import Pixels, decoded, image, scaled, short_side
from orchestrator.data.prepare.records import FAILED, IMAGE, Clip, Listed, Probed, Seen
from orchestrator.data.prepare.sampling import Window, at_times, evenly
from orchestrator.errors import RushesError, UserError, in_a_line
from orchestrator.recipe.prepare import Model

VERSION = 1

_SHORT_SIDE = 512  # pixels of what a scorer sees, at most
_TOGETHER = 16  # clips in a call, at most


@dataclass(frozen=True)
class Look:
    """What a model is shown of a clip: some frames, [T, H, W, 3], uint8, RGB, evenly over it.

    ``captions`` are those that are known of the video.
    """

    key: str
    frames_THWC: Pixels
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """What it says: all of its scores by name, and captions if it makes some."""

    scores: Mapping[str, float] = field(default_factory=dict)
    captions: Sequence[str] = ()


class ClipModel(Protocol):
    """A class that ``use: module:Class`` names; made once in a process, with its ``options``."""

    def __call__(self, looks: Sequence[Look]) -> Sequence[Said]:
        """One answer for each of at most 16 clips, in their order."""
        ...


def see_raw(row: Listed, probed: Probed, clips: Sequence[Clip], *, model: Model) -> list[Seen]:
    """Shows a model the clips of a video as they lie in it.

    Raises:
        BrokenError: if the file is not what it was.
        UserError: if there is no such model, or its answers are none.
    """
    return list(
        _seen(_raw_looks(row, probed, clips, frames=model.frames), video=row.key, model=model)
    )


def see_stored(
    key: str, *, video: str, captions: tuple[str, ...], data: bytes, ext: str, model: Model
) -> Seen:
    """Shows a model a clip as it will be stored.

    Raises:
        UserError: if there is no such model, or its answer is none.
    """
    frames_THWC = decode({ext: data})["frames"]
    places = evenly(0, len(frames_THWC), frames=min(model.frames, len(frames_THWC)))
    look = Look(key, frames_THWC[[int(place) for place in places]], captions)
    (seen,) = _seen(iter([look]), video=video, model=model)
    return seen


def _raw_looks(
    row: Listed, probed: Probed, clips: Sequence[Clip], *, frames: int
) -> Iterator[Look]:
    if row.kind == IMAGE:
        pixels_HWC = image(row.root, row.name, size=row.size)
        small_HWC = scaled(pixels_HWC, size=short_side(pixels_HWC.shape[:2], at_most=_SHORT_SIDE))
        for clip in clips:
            yield Look(clip.key, small_HWC[None], probed.captions)
        return
    windows = [
        Window(number, evenly(clip.start_s, clip.end_s, frames=frames))
        for number, clip in enumerate(clips)
    ]
    size = short_side((probed.height, probed.width), at_most=_SHORT_SIDE)
    shown = at_times(decoded(row.root, row.name, size=row.size), windows)
    for number, group in groupby(shown, key=itemgetter(0)):
        pictures = [frame.picture(size=size) for _, frame in group]
        yield Look(clips[number].key, np.stack(pictures), probed.captions)


def _seen(looks: Iterator[Look], *, video: str, model: Model) -> Iterator[Seen]:
    """A row for each; what the model raises costs only those that it was shown in that call."""
    call = _loaded(model.model_dump_json())
    while batch := list(islice(looks, _TOGETHER)):
        try:
            answers = call(batch)
        except RushesError:
            raise
        except Exception as error:  # the edge of a stranger's code
            detail = f"{model.id}: {in_a_line(error)}"
            yield from (Seen(one.key, video=video, reason=FAILED, detail=detail) for one in batch)
            continue
        if len(answers) != len(batch):
            raise UserError(f"{model.use}: {len(answers)} answers, wanted {len(batch)}")
        for look, said in zip(batch, answers, strict=True):
            _check(said, model=model)
            scores, captions = dict(said.scores), tuple(said.captions)
            yield Seen(look.key, video=video, scores=scores, captions=captions)


def _check(said: Said, *, model: Model) -> None:
    if set(said.scores) != set(model.scores):
        raise UserError(
            f"{model.use}: scores {sorted(said.scores)}, wanted {sorted(model.scores)} as the "
            f"configuration has of {model.id}"
        )
    for name, value in said.scores.items():
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{model.use}: {name}={value!r}, wanted a number")
    for caption in said.captions:
        if not isinstance(caption, str) or not caption.strip() or not is_utf8(caption):
            raise UserError(f"{model.use}: caption={caption!r}, wanted a text")


@lru_cache(maxsize=2)  # a process works at one step at a time
def _loaded(model_json: str) -> ClipModel:
    model = Model.model_validate_json(model_json)
    name, _, member = model.use.partition(":")
    try:
        kind: Any = getattr(import_module(name), member)
    except (ImportError, AttributeError) as error:
        raise UserError(f"{model.id}: use={model.use}: {error}, wanted module:Class") from None
    try:
        return kind(**model.options)
    except TypeError as error:
        raise UserError(f"{model.id}: options of {model.use}: {error}") from None

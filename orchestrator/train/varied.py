"""Asking a finished cascade for another skip, for more frames, or to animate a picture."""

from dataclasses import dataclass, replace

import torch
from numpy.typing import NDArray
from torch import Tensor

from models.cascade.chain import Cascade
from models.cascade.lift import shrink
from models.cascade.varied import Picture, VariedCascade, given_place
from orchestrator.errors import UserError
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.sampling import Sampler
from orchestrator.train.views import PRETRAINED_SIDE

Image = NDArray  # uint8 [H, W, 3]


@dataclass(frozen=True)
class Wish:
    """What the interpolation network is asked for.

    Attributes:
        skip: frames from one known frame to the next; None for the recipe's.
        extrapolate: go on after the last frame.
        image: becomes the first frame.
    """

    skip: int | None = None
    extrapolate: bool = False
    image: Image | None = None


def vary(sampler: Sampler, wish: Wish, *, recipe: Recipe) -> Sampler:
    """The sampler that grants a wish; of the networks that it then needs.

    Raises:
        UserError: if the run has no network for that, or the wishes exclude each other.
    """
    cascade = sampler.chain
    if not isinstance(cascade, Cascade) or all(link.step != "given" for link in cascade.links):
        raise UserError(
            f"{_named(wish)}: {recipe.name} has no interpolation network (given_frames), wanted a "
            "run of Make-A-Video"
        )
    if wish.skip is not None and wish.image is not None:
        raise UserError("--skip with --image: nothing is put between, wanted one of them")
    if wish.skip is not None and wish.skip < 2:
        raise UserError(f"--skip {wish.skip}: wanted at least 2")
    place = given_place(cascade)
    link = cascade.links[place]
    picture = None
    if wish.image is not None:
        picture = _picture(wish.image, sampler, recipe, size=link.size, place=place)
    return replace(
        sampler,
        chain=VariedCascade(cascade, skip=wish.skip, extrapolate=wish.extrapolate, picture=picture),
        networks=sampler.networks if wish.image is None else sampler.networks[place:],
        pace=1.0 if wish.skip is None else wish.skip / link.factor,
    )


def _named(wish: Wish) -> str:
    if wish.image is not None:
        return "--image"
    return "--extrapolate" if wish.skip is None else f"--skip {wish.skip}"


def _picture(
    image: Image, sampler: Sampler, recipe: Recipe, *, size: tuple[int, int], place: int
) -> Picture:
    stage = recipe.stage(sampler.networks[place])
    seen = (PRETRAINED_SIDE, PRETRAINED_SIDE)
    if stage.pair is not None:
        seen = recipe.stage(stage.pair).training.clip.size
    return Picture(frame_3HW=fitted(image, size=size), seen_3HW=fitted(image, size=seen))


def fitted(image: Image, *, size: tuple[int, int]) -> Tensor:
    """The middle of a picture in the shape of ``size``, resized: [3, H, W], pixels in [-1, 1]."""
    height, width = image.shape[:2]
    scale = min(height / size[0], width / size[1])
    high, wide = max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)
    top, left = (height - high) // 2, (width - wide) // 2
    cut = torch.from_numpy(image[top : top + high, left : left + wide].copy())
    pixels_13HW = cut.permute(2, 0, 1)[None].float().div_(127.5).sub_(1.0)
    return shrink(pixels_13HW, size=size)[0].clamp(-1.0, 1.0)

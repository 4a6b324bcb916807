"""Asking a finished cascade for another skip, for more frames, or to animate a picture."""

from dataclasses import dataclass, replace
from pathlib import Path

from models.cascade.chain import Cascade
from models.cascade.varied import Picture, VariedCascade, given_place
from orchestrator.errors import UserError
from orchestrator.recipe.fields import Size
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.sampling import Sampler
from orchestrator.train.start import fitted, read_frames
from orchestrator.train.views import PRETRAINED_SIDE


@dataclass(frozen=True)
class Wish:
    """What a clip shall start from, and what the interpolation network is asked for.

    Attributes:
        image: its first frame becomes the clip's.
        extend: its frames stay, and the clip goes on from them.
        skip: frames from one known frame to the next; None for the recipe's.
        extrapolate: go on after the last frame.
    """

    image: Path | None = None
    extend: Path | None = None
    skip: int | None = None
    extrapolate: bool = False


NO_WISH = Wish()


def vary(sampler: Sampler, wish: Wish, *, recipe: Recipe) -> Sampler:
    """The sampler that grants a wish; of the networks that it then needs.

    Raises:
        UserError: if the run has no network for that, or the wishes exclude each other.
    """
    cascade = sampler.chain
    if wish.extend is not None:
        raise UserError(
            f"--extend {wish.extend}: {recipe.name} is a cascade, wanted a run of a video_dit "
            "with condition_frames: true (Make-A-Video's takes --extrapolate)"
        )
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
    pace = 1.0 if wish.skip is None else wish.skip / link.factor
    rates = (*sampler.rates[:place], *(rate * pace for rate in sampler.rates[place:]))
    return replace(
        sampler,
        chain=VariedCascade(cascade, skip=wish.skip, extrapolate=wish.extrapolate, picture=picture),
        networks=sampler.networks if wish.image is None else sampler.networks[place:],
        rates=rates if wish.image is None else rates[place:],
    )


def _named(wish: Wish) -> str:
    if wish.image is not None:
        return f"--image {wish.image}"
    if wish.extend is not None:
        return f"--extend {wish.extend}"
    return "--extrapolate" if wish.skip is None else f"--skip {wish.skip}"


def _picture(image: Path, sampler: Sampler, recipe: Recipe, *, size: Size, place: int) -> Picture:
    stage = recipe.stage(sampler.networks[place])
    seen = (PRETRAINED_SIDE, PRETRAINED_SIDE)
    if stage.pair is not None:
        seen = recipe.stage(stage.pair).training.clip.size
    frame_1HW3 = read_frames(image, field=f"--image {image}")[:1]
    frame_3HW, seen_3HW = (fitted(frame_1HW3, size=one)[0, :, 0] for one in (size, seen))
    return Picture(frame_3HW=frame_3HW, seen_3HW=seen_3HW)

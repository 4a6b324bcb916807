"""What interpolation does beyond the recipe's skip: known frames stay, shapes follow."""

from typing import Any

import pytest
import torch

from models.cascade.chain import Cascade
from models.cascade.varied import Picture, VariedCascade, with_skip
from models.make_a_video.interpolation import last_frames
from tests.models.links import ENLARGING, STARTING, below, link, request
from tests.models.unets import EFFICIENT, plain, random

BETWEEN = plain(EFFICIENT, given_frames=True, fps=True)
PROMPTS, SEEDS = ("a red three moving left", "nine"), (3, 4)


def cascade() -> Cascade:
    """3 frames, 5 with those between, enlarged."""
    return Cascade(
        links=(
            link(STARTING, "start", frames=3, side=8),
            link(BETWEEN, "given", frames=5, side=8, factor=2),
            link(ENLARGING, "space", frames=3, side=16, factor=2),
        )
    )


def sample(**asked: Any) -> list[torch.Tensor]:
    return VariedCascade(cascade(), **asked).sample(PROMPTS, seeds=SEEDS)


def same(there: torch.Tensor, here: torch.Tensor) -> None:
    torch.testing.assert_close(there, here, rtol=0, atol=0)


def test_asked_for_nothing_it_is_the_cascade() -> None:
    for varied, plainly in zip(sample(), cascade().sample(PROMPTS, seeds=SEEDS), strict=True):
        same(varied, plainly)


@pytest.mark.parametrize("skip", [2, 3, 5])
def test_any_skip_keeps_the_frames_that_it_goes_between(skip: int) -> None:
    start, between, large = sample(skip=skip)
    assert between.shape == (2, 3, 2 * skip + 1, 8, 8)
    assert large.shape == (2, 3, 2 * skip + 1, 16, 16)
    same(between[:, :, ::skip], start)


def test_another_skip_has_another_pace() -> None:
    one = with_skip(link(BETWEEN, "given", frames=5, side=8, factor=2), skip=4)
    assert (one.frames, one.factor, one.fps) == (9, 4, 16.0)
    with pytest.raises(ValueError, match="skip=1, wanted at least 2"):
        with_skip(one, skip=1)


def test_an_extrapolated_clip_goes_on_where_the_shorter_one_ends() -> None:
    longer = sample(extrapolate=True)
    assert longer[1].shape[2] == 5 + 3  # two known frames in a window of five
    assert longer[2].shape == (2, 3, 8, 16, 16)
    same(longer[1][:, :, :5], sample()[1])


def test_an_animated_picture_is_the_first_frame_and_needs_no_decoder() -> None:
    picture = Picture(frame_3HW=random(3, 8, 8, seed=1).tanh(), seen_3HW=random(3, 16, 16))
    clip, large = sample(picture=picture)
    assert clip.shape == (2, 3, 5, 8, 8)
    assert large.shape == (2, 3, 5, 16, 16)
    same(clip[:, :, 0], picture.frame_3HW.expand(2, -1, -1, -1))
    assert not torch.equal(clip[:, :, 1], clip[:, :, 0])


def test_frames_may_be_known_anywhere() -> None:
    known = below(frames=6, side=8)
    mask_BT = torch.stack([last_frames(6, given=2), torch.tensor([1, 0, 0, 1, 1, 0]).bool()])
    one = link(BETWEEN, "given", frames=5, side=8, factor=2)
    clips = one.complete(request(), known, mask_BT)
    assert clips.shape == known.shape
    for clip, frames, mask_T in zip(clips, known, mask_BT, strict=True):
        same(clip[:, mask_T], frames[:, mask_T])
        assert not torch.equal(clip[:, ~mask_T], frames[:, ~mask_T])


def test_a_network_that_is_given_no_frames_completes_none() -> None:
    mask_BT = last_frames(3, given=1).expand(2, -1)
    with pytest.raises(ValueError, match="given_frames=false"):
        link(STARTING, "start", frames=3, side=8).complete(
            request(), below(frames=3, side=8), mask_BT
        )
    with pytest.raises(ValueError, match=r"known frames of \(4, 4\), wanted \(8, 8\)"):
        link(BETWEEN, "given", frames=3, side=8, factor=2).complete(
            request(), below(frames=3, side=4), mask_BT
        )
    only = Cascade(links=cascade().links[:1])
    with pytest.raises(ValueError, match="no network of the cascade is given frames"):
        VariedCascade(only, skip=2).sample(PROMPTS, seeds=SEEDS)

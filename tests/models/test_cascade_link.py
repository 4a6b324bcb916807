"""One network of a cascade: what it starts from, what it is told, and how it fits memory."""

from dataclasses import replace
from math import prod
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F

from models.cascade.lift import enlarge, insert_frames, shrink
from models.cascade.link import Link
from models.cascade.parts import SAMPLER_VALUES
from models.cascade.tiles import Tile, tile_of, tiled
from models.config import MissingFrames
from models.nn.unet_inputs import UNetInputs
from models.nn.unet_reach import peak_values
from tests.models.links import ENLARGING, IMAGES, STARTING, below, link, request
from tests.models.unets import ADM, EFFICIENT, IMAGE_WIDTH, plain, random


def test_shapes_of_every_step() -> None:
    start = link(STARTING, "start", frames=2, side=8).sample(request())
    time = link(ENLARGING, "time", frames=4, side=8, factor=2).sample(request(), start)
    space = link(ENLARGING, "space", frames=4, side=16, factor=2).sample(request(), time)
    assert [tuple(one.shape[2:]) for one in (start, time, space)] == [
        (2, 8, 8),
        (4, 8, 8),
        (4, 16, 16),
    ]
    assert space.abs().max() <= 1.0


def test_a_network_of_space_takes_longer_clips_than_it_was_trained_on() -> None:
    one = link(ENLARGING, "space", frames=2, side=16, factor=2)
    assert one.sample(request(), below(frames=5, side=8)).shape[2] == 5


def test_given_frames_come_back_as_they_are() -> None:
    config = plain(EFFICIENT, given_frames=True)
    known = below(frames=3, side=8)
    clips = link(config, "given", frames=7, side=8, factor=3).sample(request(), known)
    assert clips.shape[2] == 7
    torch.testing.assert_close(clips[:, :, ::3], known, rtol=0, atol=0)


@pytest.mark.parametrize("sampler", [{"kind": "ddim"}, {"kind": "ddpm", "variance": 0.3}])
def test_shared_noise_keeps_a_constant_clip_constant(sampler: dict[str, Any]) -> None:
    one = link(IMAGES, "space", frames=1, side=16, factor=2, **sampler)
    still = below(frames=1, side=8).expand(-1, -1, 4, -1, -1)
    clips = one.sample(request(), still)
    assert clips.shape[2] == 4
    torch.testing.assert_close(clips, clips[:, :, :1].expand_as(clips), rtol=0, atol=0)


def test_frames_of_a_moving_clip_differ_under_shared_noise() -> None:
    one = link(IMAGES, "space", frames=1, side=16, factor=2)
    clips = one.sample(request(), below(frames=3, side=8))
    assert not torch.equal(clips[:, :, 0], clips[:, :, 1])


def test_output_depends_on_the_augmentation_level() -> None:
    small = below(frames=2, side=8)
    low, high = (
        link(ENLARGING, "space", frames=2, side=16, factor=2, level=level).sample(request(), small)
        for level in (0.05, 0.3)
    )
    assert not torch.allclose(low, high)


def test_the_network_is_told_the_level_and_not_only_shown_it() -> None:
    unet = link(ENLARGING, "space", frames=2, side=16).model.unet
    x, t_B = random(1, 3, 2, 16, 16), torch.tensor([0.5])
    outputs = [
        unet(x, t_B, UNetInputs(augmentation_B=torch.tensor([level]), low_resolution_BCTHW=x))
        for level in (0.1, 0.3)
    ]
    assert not torch.allclose(*outputs)


def test_a_clip_depends_on_its_own_prompt_and_seed_only() -> None:
    config = plain(EFFICIENT, text=True, context_attention=(0, 1))
    one = link(config, "start", frames=2, side=8, guidance={"scale": 3.0})
    together = one.sample(request(2))
    alone = one.sample(replace(request(1, first_seed=0), prompts=["a red three moving left"]))
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def limited(one: Link, *, pixels: int, sampled: int) -> Link:
    """Memory for so many pixels in a call, while so many are sampled."""
    network = peak_values(one.model.unet.config) * 4 * pixels
    return replace(one, most_bytes=int(network) + 4 * SAMPLER_VALUES * sampled + 1)


def test_parts_of_a_batch_give_what_the_whole_gives() -> None:
    one = link(IMAGES, "space", frames=1, side=16, factor=2)
    small = below(frames=3, side=8)
    whole = one.sample(request(), small)
    less = limited(one, pixels=16 * 16 * 2, sampled=2 * 3 * 16 * 16)
    torch.testing.assert_close(less.sample(request(), small), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guidance", [{}, {"scale": 2.0}])
def test_no_call_of_the_network_is_above_the_limit(
    monkeypatch: pytest.MonkeyPatch, guidance: dict[str, float]
) -> None:
    config = ENLARGING.model_copy(update={"attention": ()})
    one = link(config, "space", frames=2, side=32, factor=2, guidance=guidance)
    calls: list[tuple[int, ...]] = []

    def by_position(x: torch.Tensor, t_B: torch.Tensor, inputs: UNetInputs) -> torch.Tensor:
        calls.append(tuple(x.shape))
        assert inputs.low_resolution_BCTHW is not None
        return 0.5 * x + t_B.view(-1, 1, 1, 1, 1) * inputs.low_resolution_BCTHW

    monkeypatch.setattr(one.model.unet, "forward", by_position)
    small = below(frames=2, side=16)
    whole = one.sample(request(), small)
    for limit in (3 * 2 * 32 * 32, 2 * 32 * 32, 2 * 32 * 31, 2 * 12 * 12):
        calls.clear()
        found = limited(one, pixels=limit, sampled=2 * 2 * 32 * 32).sample(request(), small)
        torch.testing.assert_close(found, whole, rtol=1e-4, atol=1e-5)
        assert max(shape[0] * prod(shape[2:]) for shape in calls) <= limit


def test_the_tile_shrinks_with_the_number_of_frames() -> None:
    sides = [tile_of(frames, most_pixels=8_000_000, stride=8) for frames in (16, 128, 10_000)]
    assert [(one.side, one.overlap) for one in sides] == [(704, 64), (248, 64), (24, 8)]
    with pytest.raises(ValueError, match="frames=10 of 8x8 pixels, wanted at most 600 in all"):
        tile_of(10, most_pixels=600, stride=8)


def test_one_tile_over_the_frame_is_the_network() -> None:
    unet = link(ENLARGING.model_copy(update={"attention": ()}), "space", frames=2, side=16)
    network = unet.model.unet
    x, t_B = random(2, 3, 2, 16, 16), torch.tensor([0.5, 0.7])
    inputs = UNetInputs(augmentation_B=t_B, low_resolution_BCTHW=x)
    whole = network(x, t_B, inputs)
    torch.testing.assert_close(
        tiled(network, x, t_B, inputs, stride=4, tile=Tile(side=16, overlap=4)), whole
    )
    parts = tiled(network, x, t_B, inputs, stride=4, tile=Tile(side=12, overlap=4))
    assert parts.shape == whole.shape
    with pytest.raises(ValueError, match="tile=10 and overlap=4, wanted multiples of 4"):
        tiled(network, x, t_B, inputs, stride=4, tile=Tile(side=10, overlap=4))


def test_dropped_embedding_is_zeros_under_guidance() -> None:
    config = plain(ADM, image_embedding=IMAGE_WIDTH, context_attention=(1,))
    one = link(config, "start", frames=2, side=8, guidance={"scale": 2.0})
    given = one.sample(request(embedding_BE=random(2, IMAGE_WIDTH)))
    none = one.sample(request(embedding_BE=torch.zeros(2, IMAGE_WIDTH)))
    assert not torch.allclose(given, none)
    unguided = replace(
        one,
        sampler=one.sampler.model_copy(
            update={"guidance": one.sampler.guidance.model_copy(update={"scale": 1.0})}
        ),
    )
    torch.testing.assert_close(
        unguided.sample(request(embedding_BE=torch.zeros(2, IMAGE_WIDTH))),
        none,
        rtol=1e-4,
        atol=1e-4,
    )


def test_missing_or_wrong_clips_before_are_refused() -> None:
    with pytest.raises(ValueError, match="step=space with below=none"):
        link(ENLARGING, "space", frames=2, side=16, factor=2).sample(request())
    with pytest.raises(ValueError, match="step=start with below=given"):
        link(STARTING, "start", frames=2, side=8).sample(request(), below(frames=2, side=8))
    one = link(ENLARGING, "time", frames=4, side=8, factor=2)
    with pytest.raises(ValueError, match=r"below gives \(2, 3, 6, 8, 8\), wanted"):
        one.sample(request(), below(frames=3, side=8))


def test_missing_frames_are_repeated_blank_or_blended() -> None:
    x = random(1, 3, 3, 4, 4)
    repeated, blank, blended = (
        insert_frames(x, factor=2, missing=how) for how in get_args(MissingFrames)
    )
    for large in (repeated, blank, blended):
        assert torch.equal(large[:, :, ::2], x)
    assert torch.equal(repeated[:, :, 1::2], x)
    assert not blank[:, :, 1::2].any()
    # Linear interpolation of PyTorch on a grid that has both ends.
    line = F.interpolate(x, size=(5, 4, 4), mode="trilinear", align_corners=True)
    torch.testing.assert_close(blended[:, :, :5], line)
    assert torch.equal(blended[:, :, 5], x[:, :, 2])


def test_lift_and_shrink() -> None:
    x = random(1, 3, 2, 4, 4)
    assert enlarge(x, size=(8, 8)).shape == (1, 3, 2, 8, 8)
    board = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).repeat(4, 4)[None, None]
    # Antialiased: a chess board becomes grey, not black or white.
    torch.testing.assert_close(shrink(board, size=(4, 4)).mean(), torch.tensor(0.5))
    assert shrink(board, size=(4, 4)).std() < 0.1
    assert shrink(board, size=(8, 8)) is board

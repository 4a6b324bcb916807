"""Given frames and their masks, as the frame interpolation network sees them."""

import pytest
import torch
from torch import Tensor

from models.config import MissingFrames
from models.make_a_video.interpolation import (
    every_kth,
    faded,
    first_frames,
    given_channels,
    last_frames,
    spread,
)


def _clip(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _given(mask: Tensor) -> list[int]:
    assert mask.dtype == torch.bool
    return [frame for frame, is_given in enumerate(mask.tolist()) if is_given]


def test_channels_are_the_given_frames_and_their_mask() -> None:
    x = _clip(2, 3, 5, 2, 3)
    mask = torch.tensor([[True, False, False, True, False], [False, False, True, True, True]])
    found = given_channels(x, mask)
    assert found.shape == (2, 4, 5, 2, 3)
    for b in range(2):
        for t in range(5):
            if mask[b, t]:
                torch.testing.assert_close(found[b, :3, t], x[b, :, t], rtol=0, atol=0)
            else:
                assert bool((found[b, :3, t] == 0).all())
            assert bool((found[b, 3, t] == float(mask[b, t])).all())


@pytest.mark.parametrize(
    ("missing", "wanted"),
    [
        # Frames 1 and 4 are given, as 0.2 and 0.8.
        ("blank", [0.0, 0.2, 0.0, 0.0, 0.8, 0.0]),
        ("repeat", [0.2, 0.2, 0.2, 0.2, 0.8, 0.8]),
        ("blend", [0.2, 0.2, 0.4, 0.6, 0.8, 0.8]),
    ],
)
def test_what_stands_in_frames_that_are_not_given(
    missing: MissingFrames, wanted: list[float]
) -> None:
    mask = torch.tensor([[False, True, False, False, True, False]])
    x = torch.tensor([-1.0, 0.2, -1.0, -1.0, 0.8, -1.0])[:, None, None].expand(1, 3, 6, 2, 2)
    found = given_channels(x, mask, missing=missing)
    for channel in range(3):
        torch.testing.assert_close(found[0, channel, :, 1, 0], torch.tensor(wanted))
    assert found[0, 3, :, 0, 1].tolist() == [0.0, 1.0, 0.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize("missing", ["blank", "repeat", "blend"])
def test_frames_that_are_not_given_leave_no_trace(missing: MissingFrames) -> None:
    x, mask = _clip(1, 3, 4, 2, 2), torch.tensor([[True, False, False, True]])
    wild = x.clone()
    wild[:, :, 1:3] = torch.inf
    found = given_channels(wild, mask, missing=missing)
    torch.testing.assert_close(found, given_channels(x, mask, missing=missing), rtol=0, atol=0)


def test_dtype_is_the_clips() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert given_channels(_clip(1, 3, 2, 2, 2).bfloat16(), mask).dtype == torch.bfloat16


@pytest.mark.parametrize(("given", "skip"), [(16, 5), (8, 3), (4, 1), (1, 7)])
def test_every_kth_frame_is_given_from_first_to_last(given: int, skip: int) -> None:
    mask = every_kth((given - 1) * skip + 1, skip=skip)
    assert _given(mask) == [n * skip for n in range(given)]


def test_sixteen_frames_five_apart_make_seventy_six() -> None:
    assert len(every_kth(76, skip=5)) == 76
    assert sum(every_kth(76, skip=5).tolist()) == 16


def test_first_and_last_frames() -> None:
    assert _given(first_frames(6, given=2)) == [0, 1]
    assert _given(last_frames(6, given=2)) == [4, 5]


def test_an_image_is_the_first_frame() -> None:
    image = _clip(2, 3, 1, 4, 4)
    clip = torch.cat([image, torch.zeros(2, 3, 4, 4, 4)], dim=2)
    found = given_channels(clip, first_frames(5, given=1).expand(2, -1))
    torch.testing.assert_close(found[:, :3, :1], image, rtol=0, atol=0)
    assert found[:, 3].sum(dim=(0, 2, 3)).tolist() == [32.0, 0.0, 0.0, 0.0, 0.0]


def test_spread_frames_fit_the_mask_of_their_skip() -> None:
    given, skip = _clip(2, 3, 4, 2, 2), 3
    clip = spread(given, skip=skip)
    assert clip.shape == (2, 3, 10, 2, 2)
    mask = every_kth(10, skip=skip)
    torch.testing.assert_close(clip[:, :, mask], given, rtol=0, atol=0)
    assert bool((clip[:, :, ~mask] == 0).all())


@pytest.mark.parametrize(("frames", "skip"), [(75, 5), (6, 0), (0, 1)])
def test_frames_that_do_not_end_on_a_given_one_are_refused(frames: int, skip: int) -> None:
    with pytest.raises(ValueError, match=rf"frames={frames} with skip={skip}, wanted"):
        every_kth(frames, skip=skip)


@pytest.mark.parametrize("build", [first_frames, last_frames])
@pytest.mark.parametrize("given", [0, 4])
def test_some_and_not_all_frames_are_given(build, given: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=rf"given={given} of frames=4, wanted 1 to 3"):
        build(4, given=given)


@pytest.mark.parametrize(
    ("shape", "mask", "message"),
    [
        ((2, 4, 3, 2, 2), torch.ones(2, 3, dtype=torch.bool), "has 4 channels, wanted 3"),
        ((2, 3, 3, 2, 2), torch.ones(2, 3), r"mask_BT is torch.float32 of shape \(2, 3\)"),
        ((2, 3, 3, 2, 2), torch.ones(3, dtype=torch.bool), r"wanted torch.bool of shape \(2, 3\)"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        given_channels(_clip(*shape), mask)


def test_given_frames_fade_into_each_other() -> None:
    x = _clip(2, 3, 7, 2, 2)
    mask = torch.tensor(
        [[True, False, False, True, False, False, True], [False, True] + [False] * 5]
    )
    found = faded(given_channels(x, mask))
    for t in range(7):  # the first clip has three given frames, the second has one
        low, high = t // 3 * 3, min(t // 3 * 3 + 3, 6)
        share = (t - low) / 3
        wanted = (1 - share) * x[0, :, low] + share * x[0, :, high]
        torch.testing.assert_close(found[0, :, t], wanted)
        torch.testing.assert_close(found[1, :, t], x[1, :, 1])


def test_no_given_frame_leaves_grey() -> None:
    nothing = given_channels(_clip(1, 3, 4, 2, 2), torch.zeros(1, 4, dtype=torch.bool))
    assert not faded(nothing).any()

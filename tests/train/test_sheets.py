"""Clips beside each other: which frame and size each is shown in, and what fits."""

from collections.abc import Sequence

import numpy as np
import pytest

from orchestrator.train.sheets import grid, same_size, tile, tile_size
from orchestrator.train.video import Pixels
from tests.train.test_video import COLOURS, moving_square


def numbered(frames: int, *, size: tuple[int, int] = (4, 4)) -> Pixels:
    """Frame i is of the grey i."""
    grey_T = np.arange(frames, dtype=np.uint8)
    return np.broadcast_to(grey_T[:, None, None, None], (frames, *size, 3)).copy()


def shown(clips: Sequence[Pixels], *, fps: Sequence[float]) -> list[list[int]]:
    """The number of every frame of every tile."""
    return [one[:, 0, 0, 0].tolist() for one in same_size(clips, fps=fps)]


def test_a_grid_shows_every_clip_unchanged() -> None:
    clips = [moving_square(colour=colour) for colour in COLOURS]
    sheet_THWC = grid(clips)
    assert sheet_THWC.shape == (9, 66, 66, 3)
    np.testing.assert_array_equal(sheet_THWC[:, :32, :32], clips[0])
    np.testing.assert_array_equal(sheet_THWC[:, :32, 34:], clips[1])
    np.testing.assert_array_equal(sheet_THWC[:, 34:, :32], clips[2])


def test_a_shorter_clip_stays_on_its_last_frame() -> None:
    short, long = moving_square(3), moving_square(9, colour="blue")
    sheet_THWC = grid([short, long], columns=2)
    assert len(sheet_THWC) == 9
    np.testing.assert_array_equal(sheet_THWC[8, :, :32], short[2])


def test_captions_are_drawn_under_their_clips() -> None:
    clips = [moving_square(colour=colour) for colour in COLOURS]
    captions = ["a red seven moving right", "", "x" * 500]
    sheet_THWC = grid(clips, captions=captions, columns=3)
    assert sheet_THWC.shape == (9, 256 + 22, 3 * 258 - 2, 3)
    bands = [sheet_THWC[0, 256:, 258 * n : 258 * n + 256] for n in range(3)]
    assert (bands[0] > 200).any()
    assert not (bands[1] > 200).any()
    assert (bands[2] > 200).any()
    np.testing.assert_array_equal(
        sheet_THWC[:, :256, :256], clips[0].repeat(8, axis=1).repeat(8, axis=2)
    )


@pytest.mark.parametrize("rate", [12 / 7, 1.714286, 1.7143])
def test_a_key_frame_is_shown_when_its_time_has_come(rate: float) -> None:
    keys, between = shown([numbered(4), numbered(22)], fps=[rate, 12])
    assert keys == [0] * 7 + [1] * 7 + [2] * 7 + [3]
    assert between == list(range(22))


def test_slower_clips_of_the_same_length_fill_it() -> None:
    slow, fast = shown([numbered(2), numbered(16)], fps=[1, 8])
    assert slow == [0] * 8 + [1] * 8
    assert fast == list(range(16))


def test_a_clip_of_one_frame_stays() -> None:
    assert shown([numbered(1), numbered(3)], fps=[1, 8]) == [[0, 0, 0], [0, 1, 2]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((32, 32), (256, 256)),
        ((24, 40), (144, 240)),
        ((192, 200), (192, 200)),
        ((768, 1280), (154, 256)),
        ((3, 3000), (1, 256)),
    ],
)
def test_a_tile_has_a_longer_side_between_half_of_256_and_256(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert tile_size(size) == expected
    assert tile_size(expected) == expected or min(expected) == 1


def test_a_large_clip_becomes_means_of_areas() -> None:
    clip_THWC = np.zeros((2, 512, 512, 3), np.uint8)
    clip_THWC[:, ::2, ::2] = 200  # a quarter of every 2x2
    clip_THWC[1, :256] = 0
    small_THWC = tile(clip_THWC)
    assert small_THWC.shape == (2, 256, 256, 3)
    assert (small_THWC[0] == 50).all()
    assert (small_THWC[1, :128] == 0).all()
    assert (small_THWC[1, 128:] == 50).all()


def test_tiles_of_one_scene_have_the_largest_ones_tile_size() -> None:
    sizes = [(24, 40), (192, 320), (768, 1280)]
    tiles = same_size([numbered(2, size=size) for size in sizes], fps=[1, 1, 1])
    assert [one.shape for one in tiles] == [(2, 154, 256, 3)] * 3


def test_a_sheet_is_at_most_4096_pixels_and_keeps_the_first_clips() -> None:
    clips = [np.full((1, 256, 256, 3), number, np.uint8) for number in range(100)]
    canvas_THWC = grid(clips, captions=[""] * 100, columns=3)
    assert canvas_THWC.shape == (1, 14 * (256 + 22 + 2) - 2, 3 * 258 - 2, 3)
    assert canvas_THWC[0, -30, -1, 0] == 14 * 3 - 1
    wide_THWC = grid(clips, captions=[""] * 100, columns=50)
    assert wide_THWC.shape[2] == 15 * 258 - 2


def test_wrong_clips_are_refused() -> None:
    clip_THWC = moving_square()
    with pytest.raises(ValueError, match="no clips"):
        grid([])
    with pytest.raises(ValueError, match="1 captions for 2 clips"):
        grid([clip_THWC] * 2, captions=["one"])
    with pytest.raises(ValueError, match="wanted one size"):
        grid([clip_THWC, moving_square(side=16)])

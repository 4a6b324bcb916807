"""Frames at the size of a bucket: scaled without aliases, and the middle of them."""

import io

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from orchestrator.data.fit import fit_array, fit_to
from tests.data.films import film_of, numbered


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def reference(frames_THWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    x_TCHW = torch.from_numpy(frames_THWC).permute(0, 3, 1, 2).double()
    small = F.interpolate(x_TCHW, size=size, mode="bilinear", antialias=True)
    return small.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("size", [(24, 32), (36, 48), (45, 60), (7, 9)])
def test_scaling_is_bilinear_with_antialiasing(size: tuple[int, int]) -> None:
    frames = noise(2, 48, 64)
    # Its taps are rounded, and edges repeated; without antialiasing the mean is above 3.5.
    assert np.abs(fit_array(frames, size=size) - reference(frames, size)).mean() <= 1.5


@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 0, 255)])
def test_stripes_of_a_pixel_become_flat_in_every_colour(colour: tuple[int, int, int]) -> None:
    frames = np.zeros((1, 60, 90, 3), np.uint8)
    frames[:, :, ::2] = colour
    small = fit_array(frames, size=(20, 30)).astype(int)[:, :, 2:-2]
    assert np.abs(small - np.array(colour) / 2).max() <= 20  # every third pixel would be 0 or 255


def test_middle_is_taken() -> None:
    frames = noise(1, 40, 100)
    np.testing.assert_array_equal(fit_array(frames, size=(40, 60)), frames[:, :, 20:80])
    np.testing.assert_array_equal(fit_array(frames, size=(20, 100)), frames[:, 10:30])
    halves = fit_array(frames, size=(20, 20)).astype(int)
    whole = fit_array(frames, size=(20, 50)).astype(int)
    np.testing.assert_array_equal(halves, whole[:, :, 15:35])


def test_frames_that_fit_are_as_they_were() -> None:
    frames = noise(2, 16, 24)
    fitted = fit_array(frames, size=(16, 24))
    np.testing.assert_array_equal(fitted, frames)
    assert not np.shares_memory(fitted, frames)


def test_frames_of_a_video_are_scaled_as_their_pixels_are() -> None:
    smooth = fit_array(numbered(1, size=(192, 512)), size=(48, 128)).repeat(2, 1).repeat(2, 2)
    with av.open(io.BytesIO(film_of(smooth, options={"crf": "1"}))) as container:
        (frame,) = container.decode(video=0)
    small = fit_to((48, 128), stored=(96, 256))(frame)
    wanted = reference(frame.to_ndarray(format="rgb24")[None], (48, 128))
    # Colours have half the resolution, and are interpolated here and repeated there.
    assert np.abs(small - wanted).mean() < 2


def test_nothing_is_enlarged() -> None:
    with pytest.raises(ValueError, match="16x24 pixels, wanted at least 16x32"):
        fit_array(noise(1, 16, 24), size=(16, 32))

"""Which stored frames a window takes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.train.views import frame_numbers, possible_fps

ALMOST_ONE = float(np.nextafter(1.0, 0.0))


@given(
    stored=st.integers(1, 64),
    stored_fps=st.sampled_from([8.0, 12.0, 24.0, 29.97]),
    frames=st.integers(1, 32),
    share=st.floats(0.01, 1.0),
    uniform=st.floats(0.0, ALMOST_ONE),
)
def test_frames_rise_within_the_clip(
    stored: int, stored_fps: float, frames: int, share: float, uniform: float
) -> None:
    frames = min(frames, stored)
    fps = possible_fps(stored_fps * share, stored=stored, stored_fps=stored_fps, frames=frames)
    numbers = frame_numbers(uniform, stored=stored, stored_fps=stored_fps, frames=frames, fps=fps)
    assert len(numbers) == frames
    assert 0 <= numbers[0] <= numbers[-1] < stored
    assert (np.diff(numbers) > 0).all()


@pytest.mark.parametrize(
    ("frames", "fps", "first"),
    [
        (2, 1.0, {0}),  # 2 frames stand for all 16
        (2, 2.0, set(range(9))),  # for 8 of them
        (8, 8.0, set(range(9))),
        (1, 8.0, set(range(16))),
        (16, 8.0, {0}),
    ],
)
def test_windows_take_in_the_time_that_their_frames_stand_for(
    frames: int, fps: float, first: set[int]
) -> None:
    found = {
        int(frame_numbers(float(u), stored=16, stored_fps=8.0, frames=frames, fps=fps)[0])
        for u in np.linspace(0.0, ALMOST_ONE, 200)
    }
    assert found == first

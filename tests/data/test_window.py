"""Windows of stored clips: frames by nearest time, all starts alike, the middle of the picture."""

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.data.window import cover, num_windows, window_draw, window_frames

RATES = st.sampled_from([1.0, 8.0, 12.0, 12.5, 23.976, 24.0, 25.0, 29.97, 30.0, 60.0])
DRAWS = st.floats(0, 1, exclude_max=True)
SIDES = st.integers(1, 2000)


@given(draw=DRAWS, frames=st.integers(1, 40), stored=st.integers(1, 400), fps=RATES, own=RATES)
def test_window_is_the_nearest_frames_and_within_the_clip(
    draw: float, frames: int, stored: int, fps: float, own: float
) -> None:
    assume(fps <= own)
    try:
        starts = num_windows(frames, fps=fps, stored=stored, stored_fps=own)
    except ValueError:
        # Its last frame would be past the end wherever it began.
        assert round((frames - 1) * own / fps) > stored - 1
        return
    numbers = window_frames(draw, frames=frames, fps=fps, stored=stored, stored_fps=own)
    assert len(numbers) == frames
    assert 0 <= numbers[0] < starts
    assert numbers[-1] < stored
    assert (np.diff(numbers) > 0).all()
    for place, number in enumerate(numbers - numbers[0]):
        wanted = Fraction(place) * Fraction(own) / Fraction(fps)
        assert abs(int(number) - wanted) <= Fraction(1, 2) + Fraction(1, 10**9)
    last = window_frames(1 - 2**-53, frames=frames, fps=fps, stored=stored, stored_fps=own)
    assert last[0] == starts - 1
    assert last[-1] == stored - 1


@given(frames=st.integers(1, 8), stored=st.integers(1, 60), own=RATES)
def test_every_start_has_an_equal_share_of_draws(frames: int, stored: int, own: float) -> None:
    assume(stored >= frames)
    starts = num_windows(frames, fps=own, stored=stored, stored_fps=own)
    assert starts == stored - frames + 1

    def first(draw: float) -> int:
        return int(window_frames(draw, frames=frames, fps=own, stored=stored, stored_fps=own)[0])

    seen = Counter(first(part / (8 * starts)) for part in range(8 * starts))
    assert set(seen) == set(range(starts))
    assert max(seen.values()) - min(seen.values()) <= 2  # parts of 8 starts are rounded


def test_rates_that_differ_by_a_thousandth_are_one() -> None:
    numbers = window_frames(0, frames=121, fps=24, stored=121, stored_fps=24000 / 1001)
    assert numbers.tolist() == list(range(121))


def test_rates_that_differ_by_less_than_a_twentieth_repeat_a_frame_at_times() -> None:
    numbers = window_frames(0, frames=51, fps=25, stored=49, stored_fps=24)
    assert sorted(set(numbers.tolist())) == list(range(49))
    assert Counter(np.diff(numbers).tolist()) == {1: 48, 0: 2}


@pytest.mark.parametrize(
    ("frames", "fps", "stored", "own", "told"),
    [
        (17, 8, 16, 8, "16 frames at 8 fps, wanted at least 17 to take 17 at 8 fps from"),
        (17, 8, 48, 24, "48 frames at 24 fps, wanted at least 49 to take 17 at 8 fps from"),
        (17, 24, 500, 12.5, "12.5 frames per second, wanted at least 24"),
    ],
)
def test_clip_that_has_too_little_is_told_what_is_wanted(
    frames: int, fps: float, stored: int, own: float, told: str
) -> None:
    with pytest.raises(ValueError, match=f"^{told}$"):
        window_frames(0, frames=frames, fps=fps, stored=stored, stored_fps=own)


def test_single_frame_has_no_rate() -> None:
    assert window_frames(0.5, frames=1, fps=30, stored=4, stored_fps=1).tolist() == [2]


@given(stored=st.tuples(SIDES, SIDES), size=st.tuples(SIDES, SIDES))
def test_crop_is_the_middle_of_the_smallest_cover(
    stored: tuple[int, int], size: tuple[int, int]
) -> None:
    if stored[0] < size[0] or stored[1] < size[1]:
        with pytest.raises(ValueError, match=f"wanted at least {size[0]}x{size[1]}$"):
            cover(stored, size=size)
        return
    crop = cover(stored, size=size)
    scaled = (crop.height, crop.width)
    assert any(have == want for have, want in zip(scaled, size, strict=True))
    for side, place, have, want in zip(scaled, (crop.top, crop.left), stored, size, strict=True):
        assert want <= side <= have
        assert place >= 0
        assert 0 <= side - want - 2 * place <= 1
    # The aspect is kept, to the half pixel that rounding moves the longer side.
    scale = max(Fraction(want, have) for have, want in zip(stored, size, strict=True))
    assert all(
        abs(side - have * scale) <= Fraction(1, 2)
        for side, have in zip(scaled, stored, strict=True)
    )


def test_draws_are_spread_and_differ_by_seed_position_and_slot() -> None:
    draws = [window_draw(slot, seed=1, position=place) for slot in range(8) for place in range(500)]
    assert all(0 <= draw < 1 for draw in draws)
    assert len(set(draws)) == len(draws)
    # A mean of 4,000 uniform draws has a standard deviation of 0.0046.
    assert abs(float(np.mean(draws)) - 0.5) < 0.02
    assert window_draw(3, seed=1, position=7) == window_draw(3, seed=1, position=7)
    assert window_draw(3, seed=2, position=7) != window_draw(3, seed=1, position=7)

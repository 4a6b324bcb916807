"""Frame rates that training draws."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from models.make_a_video.fps import draw_fps
from models.make_a_video.fps_config import FpsConfig

DRAWS = torch.arange(1000, dtype=torch.float64) / 1000


@pytest.mark.parametrize(
    ("progress", "a", "b"),
    [(0.0, 5.0, 1.0), (0.25, 3.0, 1.0), (0.5, 1.0, 1.0), (0.75, 1.0, 3.0), (1.0, 1.0, 5.0)],
)
def test_logarithm_of_the_rate_follows_a_beta_distribution(
    progress: float, a: float, b: float
) -> None:
    config = FpsConfig(low=2.0, high=24.0, lean=5.0)
    found = draw_fps(DRAWS, progress=progress, config=config)
    position = stats.beta.ppf(DRAWS.numpy(), a, b)
    np.testing.assert_allclose(found.numpy(), 2.0 * 12.0**position, rtol=1e-9)


def test_rates_fall_draw_by_draw_while_training_goes_on() -> None:
    rows = [
        draw_fps(DRAWS[1:], progress=float(progress), config=FpsConfig())
        for progress in np.linspace(0, 1, 21)
    ]
    assert bool((torch.stack(rows).diff(dim=0) < 0).all())


def test_rates_start_high_and_end_low_within_the_range() -> None:
    early, late = (draw_fps(DRAWS, progress=p, config=FpsConfig()) for p in (0.0, 1.0))
    assert early.median().item() > 15
    assert late.median().item() < 2
    for rates in (early, late):
        assert rates.min().item() >= 1.0
        assert rates.max().item() <= 30.0


def test_float32_draws_stay_in_range_at_their_ends() -> None:
    ends = torch.tensor([0.0, 2.0**-24, 1.0 - 2.0**-24])
    for progress in (0.0, 0.3, 0.5, 0.7, 1.0):
        rates = draw_fps(ends, progress=progress, config=FpsConfig())
        assert rates.dtype == torch.float32
        assert bool(((rates >= 1.0) & (rates <= 30.0)).all())


@pytest.mark.parametrize("progress", [-0.1, 1.1])
def test_progress_outside_training_is_refused(progress: float) -> None:
    with pytest.raises(ValueError, match=rf"progress={progress}, wanted 0 to 1"):
        draw_fps(DRAWS, progress=progress, config=FpsConfig())


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"low=5.0 with high=5.0, wanted low below high"):
        FpsConfig(low=5.0, high=5.0)

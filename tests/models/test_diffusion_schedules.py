"""Noise schedules and times against the papers' formulas, in float64."""

import math

import pytest
import torch

from models.diffusion.schedules import Schedule, cosine, linear, straight, zero_snr
from models.diffusion.times import logit_normal, shift_time, time_grid

EXACT = 1e-12  # some thousand roundings of float64
PRESERVING: list[Schedule] = [cosine, linear(), zero_snr()]


def _times(count: int) -> torch.Tensor:
    return torch.linspace(0.0, 1.0, count, dtype=torch.float64)


def _ddpm_alpha_bar() -> list[float]:
    """DDPM's product of 1 - beta, one step at a time; entry n is step n."""
    product, out = 1.0, [1.0]
    for step in range(1, 1001):
        product *= 1.0 - (1e-4 + (2e-2 - 1e-4) * (step - 1) / 999)
        out.append(product)
    return out


@pytest.mark.parametrize("schedule", PRESERVING, ids=["cosine", "linear", "zero_snr"])
def test_signal_and_noise_power_sum_to_one(schedule: Schedule) -> None:
    shares = schedule(_times(4001))
    total = shares.alpha_B**2 + shares.sigma_B**2
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    "schedule", [straight, *PRESERVING], ids=["straight", "cosine", "linear", "zero_snr"]
)
def test_signal_only_falls_and_noise_only_grows(schedule: Schedule) -> None:
    shares = schedule(_times(4001))
    assert bool((shares.alpha_B.diff() < 0).all())
    assert bool((shares.sigma_B.diff() > 0).all())


def test_straight_is_a_line_between_data_and_noise() -> None:
    shares = straight(torch.tensor([0.0, 0.25, 1.0]))
    assert shares.alpha_B.tolist() == [1.0, 0.75, 0.0]
    assert shares.sigma_B.tolist() == [0.0, 0.25, 1.0]


def test_cosine_log_snr_follows_the_paper() -> None:
    b = math.atan(math.exp(-20.0 / 2))
    a = math.atan(math.exp(20.0 / 2)) - b
    shares = cosine(_times(101))
    found = 2 * (shares.alpha_B / shares.sigma_B).log()
    wanted = [-2 * math.log(math.tan(a * i / 100 + b)) for i in range(101)]
    # Near the ends log tan turns a rounding of the angle into e^10 times as much.
    assert found.tolist() == pytest.approx(wanted, abs=1e-9)
    assert found[0].item() == pytest.approx(20.0, abs=1e-9)
    assert found[-1].item() == pytest.approx(-20.0, abs=1e-9)


def test_linear_equals_ddpm_at_whole_steps() -> None:
    shares = linear()(_times(1001))
    assert (shares.alpha_B**2).tolist() == pytest.approx(_ddpm_alpha_bar(), rel=EXACT)


def test_linear_stays_between_its_steps() -> None:
    shares = linear()(torch.tensor([0.3, 0.3004, 0.301], dtype=torch.float64))
    left, between, right = shares.alpha_B.tolist()
    assert between == pytest.approx(left + 0.4 * (right - left), rel=EXACT)


def test_zero_snr_follows_algorithm_1() -> None:
    root = [value**0.5 for value in _ddpm_alpha_bar()]
    first, last = root[1], root[-1]
    wanted = [(value - last) * first / (first - last) for value in root[1:]]
    shares = zero_snr()(_times(1001))
    assert shares.alpha_B[1:].tolist() == pytest.approx(wanted, rel=1e-9, abs=EXACT)
    assert shares.alpha_B[0].item() == 1.0


def test_zero_snr_ends_in_pure_noise_exactly() -> None:
    shares = zero_snr()(torch.ones(1))
    assert shares.alpha_B.item() == 0.0
    assert shares.sigma_B.item() == 1.0


def test_small_noise_keeps_its_digits_from_float32_times() -> None:
    t_B = torch.tensor([2.0**-14])
    wanted = linear()(t_B.double()).sigma_B
    torch.testing.assert_close(linear()(t_B).sigma_B, wanted, rtol=EXACT, atol=0)
    assert linear()(t_B).sigma_B.dtype == torch.float64


def test_shift_multiplies_the_noise_to_signal_ratio() -> None:
    t = _times(11)[1:-1]
    moved = shift_time(t, shift=3.0)
    torch.testing.assert_close(moved / (1 - moved), 3.0 * t / (1 - t), rtol=EXACT, atol=0)


def test_shift_of_one_changes_nothing() -> None:
    torch.testing.assert_close(shift_time(_times(11), shift=1.0), _times(11), rtol=0, atol=0)


@pytest.mark.parametrize("shift", [0.2, 1.0, 7.0])
def test_grid_runs_from_exactly_one_to_exactly_zero(shift: float) -> None:
    grid = time_grid(50, shift=shift)
    assert len(grid) == 51
    assert grid[0].item() == 1.0
    assert grid[-1].item() == 0.0
    assert bool((grid.diff() < 0).all())


def test_grid_without_shift_is_even() -> None:
    assert time_grid(4, shift=1.0).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_logit_normal_times_have_normal_logits() -> None:
    # Midpoints of 100k equal parts are the distribution itself up to 1e-3 in the tails.
    uniform = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    logit = torch.logit(logit_normal(uniform, mean=-0.4, std=1.3))
    assert logit.mean().item() == pytest.approx(-0.4, abs=1e-6)
    assert logit.std().item() == pytest.approx(1.3, abs=1e-3)
    share_below = (logit < -0.4 + 1.3).double().mean().item()
    assert share_below == pytest.approx(0.841345, abs=1e-4)


def test_logit_normal_stays_in_range_at_the_ends_of_the_draws() -> None:
    ends = torch.tensor([0.0, 2.0**-24, 1.0 - 2.0**-24])
    t = logit_normal(ends, mean=0.0, std=1.0)
    assert t[0].item() == 0.0
    assert bool(((t >= 0) & (t < 1)).all())

"""Noise on the input of super-resolution models."""

import math

import pytest
import torch
from pydantic import ValidationError

from models.diffusion.augmentation import as_cosine, augment
from models.diffusion.augmentation_config import AugmentationConfig
from models.diffusion.schedules import linear

SHAPE = (3, 2, 4, 5, 5)


def _normal(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_shares_are_the_cosine_schedules_clip_by_clip() -> None:
    x, noise = _normal(*SHAPE, seed=0), _normal(*SHAPE, seed=1)
    levels = [0.0, 0.2, 1.0]
    found = augment(x, noise, torch.tensor(levels, dtype=torch.float64))
    low = math.atan(math.exp(-10.0))
    high = math.atan(math.exp(10.0))
    for b, level in enumerate(levels):
        angle = low + (high - low) * level
        wanted = math.cos(angle) * x[b] + math.sin(angle) * noise[b]
        torch.testing.assert_close(found[b], wanted, rtol=0, atol=1e-12)


def test_levels_of_the_linear_schedule_mix_as_that_one_does() -> None:
    levels = torch.linspace(0.001, 1.0, 50, dtype=torch.float64)
    one, none = torch.ones(50, 1, dtype=torch.float64), torch.zeros(50, 1, dtype=torch.float64)
    times = as_cosine(levels, schedule="linear")
    wanted = linear()(levels)
    torch.testing.assert_close(augment(none, one, times)[:, 0], wanted.sigma_B, rtol=0, atol=1e-9)
    torch.testing.assert_close(augment(one, none, times)[:, 0], wanted.alpha_B, rtol=0, atol=1e-9)
    assert torch.equal(as_cosine(levels, schedule="cosine"), levels)


def test_the_ends_are_the_clip_and_the_noise() -> None:
    x, noise = _normal(2, 100, seed=0), _normal(2, 100, seed=1)
    found = augment(x, noise, torch.tensor([0.0, 1.0]))
    # The schedule ends at a log SNR of 20: 4.5e-5 of the other one.
    torch.testing.assert_close(found[0], x[0], rtol=0, atol=3e-4)
    torch.testing.assert_close(found[1], noise[1], rtol=0, atol=3e-4)


@pytest.mark.parametrize("level", [0.05, 0.2, 0.6, 0.95])
def test_white_data_keep_their_variance(level: float) -> None:
    x, noise = _normal(1, 200_000, seed=0), _normal(1, 200_000, seed=1)
    found = augment(x, noise, torch.full((1,), level))
    # 4 standard errors of the variance of 200k normal draws.
    assert found.var().item() == pytest.approx(1.0, abs=4 * math.sqrt(2 / 200_000))


@pytest.mark.parametrize(("ratio", "level"), [(3.0, 0.333), (5.0, 0.268)])
def test_levels_of_imagen_videos_signal_to_noise_ratios(ratio: float, level: float) -> None:
    ones, zeros = torch.ones(1, 1), torch.zeros(1, 1)
    signal = augment(ones, zeros, torch.tensor([level])).item()
    noise = augment(zeros, ones, torch.tensor([level])).item()
    assert (signal / noise) ** 2 == pytest.approx(ratio, rel=0.01)  # three digits of the level


def test_dtype_is_the_clips() -> None:
    x = torch.ones(2, 3, dtype=torch.bfloat16)
    assert augment(x, x, torch.tensor([0.1, 0.2])).dtype == torch.bfloat16


def test_one_level_per_clip_is_wanted() -> None:
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"level_B has shape \(1,\), wanted \(2,\)"):
        augment(x, x, torch.zeros(1))


def test_a_sampling_level_that_training_never_draws_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"level=0.4 is above level_max=0.3"):
        AugmentationConfig(level_max=0.3, level=0.4)

"""What is expected of a clip is what Gaussian pixels would make it, and the rest has unit size."""

from functools import cache

import pytest
import torch
from torch import Tensor

from models.diffusion.augmentation import augment
from models.diffusion.config import DiffusionConfig, FlowConfig
from models.diffusion.objective import Objective, build_objective
from models.diffusion.preconditioning import Preconditioning

CONFIGS = [
    FlowConfig(),
    DiffusionConfig(kind="v"),
    DiffusionConfig(kind="epsilon"),
    DiffusionConfig(kind="x0"),
    DiffusionConfig(kind="v", schedule="zero_snr"),
]
STD, MEAN = 0.3, -0.8
SAMPLES = 400_000


@cache
def draws(seed: int) -> tuple[Tensor, Tensor]:
    """Two independent ones of many pixels, float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 1, 1, 1, SAMPLES)
    first = torch.randn(shape, generator=generator, dtype=torch.float64)
    return first, torch.randn(shape, generator=generator, dtype=torch.float64)


def targets(objective: Objective, t: float, *, mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Many pixels around the mean as a clip: x_t, times and targets, float64."""
    x, noise = draws(0)
    x = mean + STD * x
    t_B = torch.tensor([t])
    return objective.corrupt(x, noise, t_B), t_B, objective.target(x, noise, t_B)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("t", [0.05, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("is_clip", [False, True])
def test_zeros_are_the_best_linear_guess_and_ones_its_error(
    config: FlowConfig | DiffusionConfig, t: float, is_clip: bool
) -> None:
    objective = build_objective(config)
    mean = torch.full((1, 1, 1, 1, SAMPLES), MEAN, dtype=torch.float64)
    if is_clip:
        mean = torch.linspace(-1, 1, SAMPLES, dtype=torch.float64).expand_as(mean)
    x_t, t_B, target = targets(objective, t, mean=mean)
    precondition = Preconditioning(objective, std=STD, mean=MEAN)

    def prediction(value: float) -> Tensor:
        return precondition(torch.full_like(x_t, value), x_t, t_B, mean if is_clip else None)

    guess = prediction(0.0)
    scale = prediction(1.0) - guess
    assert_nothing_linear_is_left((target - guess) / scale, [x_t, mean] if is_clip else [x_t])


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("t", [0.05, 0.3, 0.7, 0.95])
@pytest.mark.parametrize("level", [0.02, 0.3, 1.0])
def test_the_best_guess_from_a_smaller_clip_with_noise_knows_its_level(
    config: FlowConfig | DiffusionConfig, t: float, level: float
) -> None:
    objective = build_objective(config)
    white, noise = draws(1)
    level_B = torch.tensor([level])
    smaller = augment(white, noise, level_B)
    x_t, t_B, target = targets(objective, t, mean=white)
    precondition = Preconditioning(objective, std=STD, mean=0.0)

    def prediction(value: float) -> Tensor:
        return precondition(torch.full_like(x_t, value), x_t, t_B, smaller, level_B)

    guess = prediction(0.0)
    scale = prediction(1.0) - guess
    assert_nothing_linear_is_left((target - guess) / scale, [x_t, smaller])


def assert_nothing_linear_is_left(error: Tensor, known: list[Tensor]) -> None:
    """Its size is one, too. What remains of so many samples is about 1 / sqrt(SAMPLES)."""
    assert float(error.square().mean()) == pytest.approx(1.0, abs=0.01)
    assert abs(float(error.mean())) < 0.01
    for one in known:
        centred = (one - one.mean()) / one.std()
        assert abs(float((error * centred).mean())) < 0.01


def test_a_learned_variance_is_left_alone() -> None:
    config = DiffusionConfig(kind="epsilon", learned_variance=True)
    precondition = Preconditioning(build_objective(config), std=STD, mean=0.0)
    output = torch.randn(2, 6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    x_t, t_B = torch.zeros(2, 3, 1, 4, 4), torch.tensor([0.2, 0.9])
    found = precondition(output, x_t, t_B, None)
    assert found.shape == output.shape
    assert torch.equal(found[:, 3:], output[:, 3:])
    assert not torch.equal(found[:, :3], output[:, :3])

"""Thresholding of the predicted clean clip."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from models.diffusion.config import DiffusionConfig, SamplerConfig
from models.diffusion.objective import build_objective
from models.diffusion.samplers import grid_of, sample
from models.diffusion.thresholds import clip_dynamic
from tests.models.gaussians import gaussian

KINDS = ["euler", "heun", "ddim", "ddim_back", "ddpm", "dpmpp_2m"]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.995, 1.0])
def test_dynamic_divides_by_the_percentile_of_each_clip(percentile: float) -> None:
    x = _normal(3, 3, 2, 7, 5) * torch.tensor([3.0, 1.5, 8.0]).view(3, 1, 1, 1, 1)
    found = clip_dynamic(x, percentile=percentile)
    for clip, result in zip(x.numpy(), found.numpy(), strict=True):
        edge = max(np.quantile(np.abs(clip), percentile, method="inverted_cdf"), 1.0)
        np.testing.assert_allclose(result, np.clip(clip, -edge, edge) / edge, rtol=1e-12)


def test_dynamic_leaves_a_clip_in_range_as_it_is() -> None:
    x = _normal(1, 3, 20).clamp(-1, 1)
    torch.testing.assert_close(clip_dynamic(x, percentile=0.9), x, rtol=0, atol=0)


def test_dynamic_only_cuts_a_clip_whose_percentile_is_in_range() -> None:
    x = torch.full((1, 1, 100), 0.5)
    x[..., 0] = -7.0
    wanted = x.clone()
    wanted[..., 0] = -1.0
    torch.testing.assert_close(clip_dynamic(x, percentile=0.9), wanted, rtol=0, atol=0)


@pytest.mark.parametrize("threshold", ["static", "dynamic"])
def test_every_step_keeps_clip_and_noise_consistent(threshold: str) -> None:
    """Two steps by hand: the clean clip is cut, and the noise is what then is left of x_t."""
    objective = build_objective(DiffusionConfig(kind="x0", schedule="linear"))
    config = SamplerConfig.model_validate({"kind": "euler", "steps": 3, "threshold": threshold})
    guess = 3 * _normal(1, 3, 40, seed=1)
    noise = _normal(1, 3, 40)
    found = sample(lambda x, t_B: guess - 0.1 * x, noise, objective=objective, config=config)
    x, moments = noise, grid_of(objective, config=config)
    for here, there in pairwise(moments):
        clean = guess - 0.1 * x
        edge = 1.0
        if threshold == "dynamic":
            edge = max(1.0, np.quantile(clean.abs().numpy(), 0.995, method="inverted_cdf"))
        clean = clean.clamp(-edge, edge) / edge
        left = (x - here.alpha * clean) / here.sigma
        x = there.alpha * clean + there.sigma * left
    torch.testing.assert_close(found, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("threshold", ["static", "dynamic"])
@pytest.mark.parametrize("kind", KINDS)
def test_clips_of_an_overdriven_model_end_in_range(kind: str, threshold: str) -> None:
    objective = build_objective(DiffusionConfig(kind="x0"))
    exact = gaussian(mean=0.5, std=0.5).denoiser(objective)
    config = SamplerConfig.model_validate({"kind": kind, "steps": 8})

    def overdriven(x: Tensor, t_B: Tensor) -> Tensor:
        return 3 * exact(x, t_B)

    ends = [
        sample(
            overdriven,
            _normal(1, 30, 1),
            objective=objective,
            config=config.model_copy(update={"threshold": each}),
            generators=[torch.Generator().manual_seed(1)],
        )
        for each in (None, threshold)
    ]
    assert ends[0].abs().max().item() > 1.0
    assert ends[1].abs().max().item() <= 1.0


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_in_range_are_left_alone(kind: str) -> None:
    objective = build_objective(DiffusionConfig(kind="v"))
    config = SamplerConfig.model_validate({"kind": kind, "steps": 8})
    ends = [
        sample(
            gaussian(mean=0.1, std=0.1).denoiser(objective),
            _normal(1, 30, 1),
            objective=objective,
            config=config.model_copy(update={"threshold": each}),
            generators=[torch.Generator().manual_seed(1)],
        )
        for each in (None, "dynamic")
    ]
    # The noise is computed another way: a few roundings per step.
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("threshold", ["null", '"static"'])
def test_a_percentile_without_effect_is_refused(threshold: str) -> None:
    with pytest.raises(ValidationError, match=r"percentile=0.9 belongs to threshold=dynamic"):
        SamplerConfig.model_validate_json(f'{{"threshold": {threshold}, "percentile": 0.9}}')

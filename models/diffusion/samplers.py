"""Samplers: from noise at time 1 to a clip at time 0.

Shape letters: B clips, C channels, T frames, H W height and width. The rules are in
``rules.py``; nothing depends on the number of dimensions after B.
"""

from collections.abc import Sequence
from typing import assert_never

import torch
from torch import Tensor

from models.diffusion.config import SamplerConfig
from models.diffusion.guidance import Denoise
from models.diffusion.moments import Moment
from models.diffusion.objective import Objective
from models.diffusion.rules import ddim, ddim_back, ddpm, dpmpp_2m, euler, heun
from models.diffusion.run import Run
from models.diffusion.times import time_grid


def sample(
    denoise: Denoise,
    noise_BCTHW: Tensor,
    *,
    objective: Objective,
    config: SamplerConfig,
    generators: Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Runs a sampler from time 1 to time 0.

    Guidance is part of ``denoise`` (see ``guidance.guided``), ``config.guidance`` is not read.

    Args:
        denoise: (x_t [B, C, T, H, W], times [B] float32) -> the network's output. Called once
            per step, twice by heun in every step but the last.
        noise_BCTHW: standard normal, [B, C, T, H, W], float32 or float64.
        objective: what the network was trained for. A variance that it learns is used by ddpm;
            the other rules have no use for it.
        config: the rule, its steps, their shift and the threshold.
        generators: one per clip, on any device, for rules that draw noise on the way; a clip's
            result then does not depend on its batch mates.

    Returns:
        Clips, [B, C, T, H, W], in the dtype of the noise.

    Raises:
        ValueError: if the rule draws noise and there is not one generator per clip, or the
            sampler sets the variance that the objective learns.
    """
    if config.is_stochastic and len(generators or ()) != len(noise_BCTHW):
        raise ValueError(
            f"sampler {config.kind} draws noise: got {len(generators or ())} generators, "
            f"wanted {len(noise_BCTHW)}, one per clip"
        )
    if config.variance and objective.learns_variance:
        raise ValueError(
            f"variance={config.variance} of the sampler has no effect on a model with "
            "learned_variance=true, wanted 0"
        )
    run = Run(
        denoise=denoise,
        objective=objective,
        config=config,
        moments=grid_of(objective, config=config),
        generators=generators or (),
    )
    match config.kind:
        case "euler":
            return euler(run, noise_BCTHW)
        case "heun":
            return heun(run, noise_BCTHW)
        case "ddim":
            return ddim(run, noise_BCTHW)
        case "ddim_back":
            return ddim_back(run, noise_BCTHW)
        case "ddpm":
            return ddpm(run, noise_BCTHW)
        case "dpmpp_2m":
            return dpmpp_2m(run, noise_BCTHW)
        case unknown:
            assert_never(unknown)


def grid_of(objective: Objective, *, config: SamplerConfig) -> list[Moment]:
    """The ``steps + 1`` moments from time 1 to time 0; the last is clean (alpha 1, sigma 0)."""
    shift = objective.shift if config.shift is None else config.shift
    times = time_grid(config.steps, shift=shift)
    shares = objective.coefficients(times)
    rows = zip(times.tolist(), shares.alpha_B.tolist(), shares.sigma_B.tolist(), strict=True)
    moments = [Moment(t=t, alpha=alpha, sigma=sigma) for t, alpha, sigma in rows]
    return [*moments[:-1], Moment(t=0.0, alpha=1.0, sigma=0.0)]

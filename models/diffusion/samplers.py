"""Samplers: from noise at time 1 to a clip at time 0.

Shape letters: B clips, C channels, T frames, H W height and width. Nothing here depends on the
number of dimensions after B.

Every rule below needs only the clean clip, the noise and the shares (alpha, sigma) of two
times, so that each works under each objective. The last step lands on the predicted clean clip:
the network is never asked at time 0, where no noise is left to predict.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from models.diffusion.config import SamplerConfig
from models.diffusion.guidance import Denoise
from models.diffusion.objective import Objective, Prediction
from models.diffusion.times import time_grid


@dataclass(frozen=True)
class Moment:
    """One time of the grid with its signal and noise shares."""

    t: float
    alpha: float
    sigma: float


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
        objective: what the network was trained for.
        config: the rule, its steps and their shift.
        generators: one per clip, on any device, for rules that draw noise on the way; a clip's
            result then does not depend on its batch mates.

    Returns:
        Clips, [B, C, T, H, W], in the dtype of the noise.

    Raises:
        ValueError: if the rule draws noise and there is not one generator per clip.
    """
    if config.is_stochastic and len(generators or ()) != len(noise_BCTHW):
        raise ValueError(
            f"sampler {config.kind} draws noise: got {len(generators or ())} generators, "
            f"wanted {len(noise_BCTHW)}, one per clip"
        )
    moments = grid_of(objective, config=config)
    run = _Run(denoise=denoise, objective=objective, moments=moments, generators=generators or ())
    match config.kind:
        case "euler":
            return _euler(run, noise_BCTHW)
        case "heun":
            return _heun(run, noise_BCTHW)
        case "ddim":
            return _ddim(run, noise_BCTHW, eta=config.eta)
        case "ddpm":
            return _ddpm(run, noise_BCTHW, exponent=config.variance)
        case "dpmpp_2m":
            return _dpmpp_2m(run, noise_BCTHW)
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


@dataclass(frozen=True)
class _Run:
    """What every rule needs beside the noise."""

    denoise: Denoise
    objective: Objective
    moments: list[Moment]
    generators: Sequence[torch.Generator]

    def steps(self) -> list[tuple[Moment, Moment]]:
        """(here, next) pairs from noise to clean."""
        return list(zip(self.moments[:-1], self.moments[1:], strict=True))

    def predict(self, x_BCTHW: Tensor, at: Moment) -> Prediction:
        """Clean clip and noise at one moment."""
        t_B = torch.full(x_BCTHW.shape[:1], at.t, dtype=torch.float64, device=x_BCTHW.device)
        output = self.denoise(x_BCTHW, t_B.float())
        return self.objective.predict(output.to(x_BCTHW.dtype), x_BCTHW, t_B)

    def draw(self, like: Tensor) -> Tensor:
        """Fresh noise, clip by clip from its own generator, on the clips' device."""
        draws = [
            torch.randn(like.shape[1:], generator=one, dtype=like.dtype, device=one.device)
            for one in self.generators
        ]
        return torch.stack(draws).to(like.device)


def _euler(run: _Run, x_BCTHW: Tensor) -> Tensor:
    """First order along the probability flow: clean and noise are held over the step.

    Under rectified flow this is Euler in t; under the other schedules it is DDIM without noise.
    """
    for here, there in run.steps():
        found = run.predict(x_BCTHW, here)
        x_BCTHW = there.alpha * found.clean + there.sigma * found.noise
    return x_BCTHW


def _heun(run: _Run, x_BCTHW: Tensor) -> Tensor:
    """Second order: clean and noise averaged over both ends of the step, the last step Euler.

    Under rectified flow this is Heun in t. Under the other schedules the trapezoid rule runs
    over d alpha and d sigma instead of dt, which needs no derivative of the schedule and stays
    finite where sigma' or sigma/alpha is not.

    Source: Karras et al. 2022, arXiv:2206.00364, algorithm 1, with the change of variable above.
    """
    for here, there in run.steps():
        first = run.predict(x_BCTHW, here)
        euler = there.alpha * first.clean + there.sigma * first.noise
        if there.sigma == 0.0:
            return euler
        second = run.predict(euler, there)
        clean = (first.clean + second.clean) / 2
        noise = (first.noise + second.noise) / 2
        moved = (there.alpha - here.alpha) * clean + (there.sigma - here.sigma) * noise
        x_BCTHW = x_BCTHW + moved
    return x_BCTHW


def _ddim(run: _Run, x_BCTHW: Tensor, *, eta: float) -> Tensor:
    """Source: Song et al. 2020, arXiv:2010.02502, equations 12 and 16."""
    for here, there in run.steps():
        found = run.predict(x_BCTHW, here)
        fresh = eta * _posterior_variance(here, there) ** 0.5
        kept = max(there.sigma**2 - fresh**2, 0.0) ** 0.5
        x_BCTHW = there.alpha * found.clean + kept * found.noise
        if fresh > 0.0:
            x_BCTHW = x_BCTHW + fresh * run.draw(x_BCTHW)
    return x_BCTHW


def _ddpm(run: _Run, x_BCTHW: Tensor, *, exponent: float) -> Tensor:
    """Ancestral sampling with log variance between its lower and upper bound.

    Source: Ho et al. 2022 (Imagen Video), arXiv:2210.02303, section 2.1: variance =
    lower^(1 - exponent) * upper^exponent. The lower bound is right for data at one point, the
    upper one for white data of variance 1; stated here for any alpha and sigma.
    """
    for here, there in run.steps():
        found = run.predict(x_BCTHW, here)
        lower = _posterior_variance(here, there)
        kept = max(there.sigma**2 - lower, 0.0) ** 0.5
        x_BCTHW = there.alpha * found.clean + kept * found.noise
        if there.sigma > 0.0:
            upper = _forward_variance(here, there) * _power(there) / _power(here)
            std = (lower ** (1 - exponent) * upper**exponent) ** 0.5
            x_BCTHW = x_BCTHW + std * run.draw(x_BCTHW)
    return x_BCTHW


def _dpmpp_2m(run: _Run, x_BCTHW: Tensor) -> Tensor:
    """Second order from the previous step's clean clip, one call per step.

    First order where a neighbour has no log SNR: in the first step, in the second one if time 1
    holds no signal, and in the last one.

    Source: Lu et al. 2022, arXiv:2211.01095, algorithm 2, with exp(-h) written as shares.
    """
    previous: Tensor | None = None
    width_before = 0.0
    for here, there in run.steps():
        clean = run.predict(x_BCTHW, here).clean
        width = _log_snr_step(here, there)
        guess = clean
        if previous is not None and there.sigma > 0.0:
            guess = clean + width / (2 * width_before) * (clean - previous)
        ratio = there.sigma / here.sigma
        x_BCTHW = ratio * x_BCTHW + (there.alpha - ratio * here.alpha) * guess
        previous, width_before = clean, width
    return x_BCTHW


def _forward_variance(here: Moment, there: Moment) -> float:
    """Variance that noising adds from ``there`` (earlier time) to ``here``."""
    return here.sigma**2 - (here.alpha / there.alpha * there.sigma) ** 2


def _posterior_variance(here: Moment, there: Moment) -> float:
    """Variance of x at ``there``, given x at ``here`` and the clean clip."""
    return (there.sigma / here.sigma) ** 2 * _forward_variance(here, there)


def _power(at: Moment) -> float:
    """Variance of x_t for white data of variance 1."""
    return at.alpha**2 + at.sigma**2


def _log_snr_step(here: Moment, there: Moment) -> float:
    """Growth of log(alpha/sigma) over the step; infinite from no signal or to no noise."""
    if here.alpha == 0.0 or there.sigma == 0.0:
        return math.inf
    return math.log(there.alpha * here.sigma / (there.sigma * here.alpha))

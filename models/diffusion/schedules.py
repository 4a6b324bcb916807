"""Noise schedules: x_t = alpha(t) x + sigma(t) noise, time 0 clean, time 1 noise.

Shape letters: B clips.

Coefficients are computed in float64: 1 - alpha^2 near t = 0 loses half its digits in float32.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LOG_SNR_MAX = 20.0  # of the cosine schedule, at t = 0 (and its negative at t = 1)
NUM_BETAS = 1000
BETA_FIRST = 1e-4
BETA_LAST = 2e-2


@dataclass(frozen=True)
class Coefficients:
    """Signal and noise shares at some times, each [B], float64, on the device of the times."""

    alpha_B: Tensor
    sigma_B: Tensor


class Schedule(Protocol):
    """Maps times [B] to coefficients."""

    def __call__(self, t_B: Tensor) -> Coefficients: ...


def straight(t_B: Tensor) -> Coefficients:
    """alpha = 1 - t, sigma = t.

    Source: rectified flow, Liu et al. 2022, arXiv:2209.03003, equation 1 (time reversed).
    """
    t_B = t_B.double()
    return Coefficients(alpha_B=1 - t_B, sigma_B=t_B)


def cosine(t_B: Tensor) -> Coefficients:
    """log SNR = -2 log tan(a t + b), cut to [-20, 20] by the choice of a and b.

    Neither end is exact: sigma(0) = alpha(1) = exp(-10).

    Source: Ho and Salimans 2022, arXiv:2207.12598, section 2 (u there is t here); used by
    Imagen Video, arXiv:2210.02303, section 2.1.
    """
    b = math.atan(math.exp(-LOG_SNR_MAX / 2))
    a = math.atan(math.exp(LOG_SNR_MAX / 2)) - b
    angle_B = a * t_B.double() + b
    return Coefficients(alpha_B=angle_B.cos(), sigma_B=angle_B.sin())


def cosine_time(sigma_B: Tensor) -> Tensor:
    """The time at which the cosine schedule has so much noise, [B], in [0, 1], float64."""
    b = math.atan(math.exp(-LOG_SNR_MAX / 2))
    a = math.atan(math.exp(LOG_SNR_MAX / 2)) - b
    return ((sigma_B.double().clamp(0, 1).asin() - b) / a).clamp(0, 1)


class Tabulated:
    """Variance-preserving schedule from alpha at t = 0, 1/N, ..., 1, linear in between."""

    def __init__(self, alpha_table: Tensor) -> None:
        """Args: alpha_table, [N + 1], float64, from 1 downwards."""
        self._alpha = alpha_table

    def __call__(self, t_B: Tensor) -> Coefficients:
        """Coefficients at times [B]; exact table values where N t is whole."""
        if self._alpha.device != t_B.device:  # copied once, not in every step
            self._alpha = self._alpha.to(t_B.device)
        table = self._alpha
        intervals = len(table) - 1
        at_B = t_B.double() * intervals
        left_B = at_B.floor().clamp(0, intervals - 1).long()
        alpha_B = torch.lerp(table[left_B], table[left_B + 1], at_B - left_B)
        # (1 - a)(1 + a) keeps the digits that 1 - a^2 would lose.
        sigma_B = ((1 - alpha_B) * (1 + alpha_B)).sqrt()
        return Coefficients(alpha_B=alpha_B, sigma_B=sigma_B)


def linear() -> Tabulated:
    """DDPM's 1000 betas from 1e-4 to 2e-2; time n/1000 is DDPM's step n, and time 0 is clean.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4. The line between steps is ours.
    """
    return Tabulated(_linear_alphas())


def zero_snr() -> Tabulated:
    """The linear schedule, rescaled so that time 1 holds no signal at all.

    Source: Lin et al. 2023, arXiv:2305.08891, algorithm 1: step 1 keeps its alpha, step 1000
    becomes 0.
    """
    alpha = _linear_alphas()
    first, last = alpha[1].clone(), alpha[-1].clone()
    alpha[1:] = (alpha[1:] - last) * first / (first - last)
    return Tabulated(alpha)


def _linear_alphas() -> Tensor:
    beta = torch.linspace(BETA_FIRST, BETA_LAST, NUM_BETAS, dtype=torch.float64)
    alpha_bar = torch.cumprod(1 - beta, dim=0)
    return torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar.sqrt()])

"""The variational bound that trains a learned variance.

Shape letters: B clips, C channels, T frames, H W height and width. Nothing here depends on the
number of dimensions after B.

The bound belongs to a chain of 1000 steps, while our times are continuous. At time t the term
is the one of the step from t to t - 1/1000, which on the grid n/1000 is the paper's; a time in
the first thousandth stands for the last step of sampling, down to the clip itself.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.schedules import Schedule
from models.diffusion.shapes import per_clip

NUM_STEPS = 1000
FIRST = 1 / NUM_STEPS  # time of the last step of sampling
HALF_LEVEL = 1 / 255  # half the distance of two pixel values in [-1, 1]
NEAR_END = 0.999  # the outermost values reach to infinity


def vlb_bits(
    share: Tensor, x_BCTHW: Tensor, clean_error: Tensor, t_B: Tensor, *, schedule: Schedule
) -> Tensor:
    """The variational bound, estimated from the one term at each clip's time.

    Its gradient reaches the variance only: the prediction comes in as its error, detached.

    Args:
        share: where the log variance lies between its lower bound (0) and its upper one (1),
            [B, C, T, H, W]. Any value is allowed.
        x_BCTHW: clean clips. Only the last step reads them, and takes them for pixels: 256
            levels in [-1, 1].
        clean_error: x minus the clean clip that the network predicts.
        t_B: times in [0, 1], [B].
        schedule: variance preserving.

    Returns:
        Bits per value, times the 1000 terms of the sum, [B, C, T, H, W], float32.

    Source: Nichol and Dhariwal 2021, arXiv:2102.09672, equations 4 to 7 and 15. In bits and per
    value as in their code, on which the published weight of 0.001 rests. The posterior of the
    last step has no variance, so times below 2/1000 take the lower bound of the step from
    there, as their code does; times below 1/1000 take the upper bound of the last step.
    """
    clean_error = clean_error.detach().float()
    t_B = t_B.double()
    step = _step(t_B.clamp_min(FIRST), schedule=schedule)
    floor_B = _step(t_B.clamp_min(2 * FIRST), schedule=schedule).lower_B
    # Float32 rounds the first time of the grid up.
    is_last = per_clip(t_B <= FIRST * (1 + 1e-6), like=share)
    gain = per_clip(step.gain_B.float(), like=share)
    log_lower = per_clip(floor_B.log().float(), like=share)
    width = per_clip((step.upper_B.log() - floor_B.log()).float(), like=share)

    rise = share.float() * width  # of the log variance over its lower bound
    log_variance = log_lower + rise
    distance = (gain * clean_error).square() * torch.exp(-log_variance)
    divergence = 0.5 * (rise + torch.expm1(-rise) + distance)
    # Zero where it is not used, so that no infinity there enters the gradient.
    last_error = torch.where(is_last, clean_error, 0.0)
    surprise = discretised_nll(x_BCTHW.float(), last_error, log_variance=log_variance)
    return torch.where(is_last, surprise, divergence) * (NUM_STEPS / math.log(2))


def discretised_nll(x: Tensor, error: Tensor, *, log_variance: Tensor) -> Tensor:
    """Minus the log probability of each pixel's level under a Gaussian around x - error, in nats.

    Args:
        x: pixels in [-1, 1], any shape.
        error: pixel minus the mean of the Gaussian, same shape.
        log_variance: same shape.

    Source: Ho et al. 2020, arXiv:2006.11239, equation 13. With logarithms of the normal
    distribution itself, so that a mean far off still has a finite probability and a gradient.
    """
    per_std = torch.exp(-0.5 * log_variance)
    above, below = (error + HALF_LEVEL) * per_std, (error - HALF_LEVEL) * per_std
    # Mirrored into the left tail, where both logarithms keep their digits.
    high = torch.special.log_ndtr((HALF_LEVEL - error.abs()) * per_std)
    low = torch.special.log_ndtr((-HALF_LEVEL - error.abs()) * per_std)
    # Cut where a level is too narrow beside the Gaussian to tell the two apart.
    gap = (low - high).clamp_max(-torch.finfo(x.dtype).eps)
    between = high + torch.log(-torch.expm1(gap))
    log_probability = torch.where(
        x < -NEAR_END,
        torch.special.log_ndtr(above),
        torch.where(x > NEAR_END, torch.special.log_ndtr(-below), between),
    )
    return -log_probability


@dataclass(frozen=True)
class _Step:
    """The step from some times down by 1/1000, each [B], float64."""

    gain_B: Tensor  # how much of an error of the clean clip reaches the mean
    lower_B: Tensor  # variance of the posterior
    upper_B: Tensor  # variance that noising adds over the step


def _step(here_B: Tensor, *, schedule: Schedule) -> _Step:
    here, there = schedule(here_B), schedule(here_B - FIRST)
    upper_B = here.sigma_B**2 - (here.alpha_B / there.alpha_B * there.sigma_B) ** 2
    return _Step(
        gain_B=there.alpha_B * upper_B / here.sigma_B**2,
        lower_B=(there.sigma_B / here.sigma_B) ** 2 * upper_B,
        upper_B=upper_B,
    )

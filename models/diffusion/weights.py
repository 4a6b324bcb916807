"""How much each position of a clip, and each time, counts in a squared error.

Shape letters: B clips.
"""

from typing import Literal, assert_never

import torch
from torch import Tensor

from models.diffusion.schedules import Coefficients


def clip_mean(values: Tensor, *, weight: Tensor | None) -> Tensor:
    """Mean over each clip's positions, [B].

    Args:
        values: [B, ...].
        weight: share of each position, of a shape that broadcasts to the values, or None for
            equal shares. A clip whose weights are all 0 has mean 0.
    """
    if weight is None:
        return values.flatten(1).mean(dim=1)
    share = weight.float().expand_as(values).flatten(1)
    total_B = share.sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    return (values.flatten(1) * share).sum(dim=1) / total_B


def min_snr_weight(
    shares: Coefficients, *, kind: Literal["epsilon", "x0", "v"], gamma: float
) -> Tensor:
    """min(SNR, gamma) on the clean clip's error, restated for a target, [B], float32.

    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    signal_B, noise_B = shares.alpha_B.square(), shares.sigma_B.square()
    # min(SNR, gamma) * sigma^2: finite at both ends, unlike the ratio.
    kept_B = torch.minimum(signal_B, gamma * noise_B)
    match kind:
        case "epsilon":
            return (kept_B / signal_B).float()
        case "x0":
            return torch.where(noise_B > 0, kept_B / noise_B, gamma).float()
        case "v":
            return kept_B.float()
        case unknown:
            assert_never(unknown)


def clean_error_weight(
    shares: Coefficients,
    *,
    kind: Literal["flow", "x0", "v"],
    weighting: Literal["truncated_snr", "snr_plus_one"],
) -> Tensor:
    """max(SNR, 1) or SNR + 1 on the clean clip's error, restated for a target, [B], float32.

    Source: Salimans and Ho 2022, arXiv:2202.00512, equations 9 and 10.
    """
    signal_B, noise_B = shares.alpha_B.square(), shares.sigma_B.square()
    match weighting:
        case "truncated_snr":
            weight_B = torch.maximum(signal_B, noise_B)
        case "snr_plus_one":
            weight_B = signal_B + noise_B
        case unknown:
            assert_never(unknown)
    # So far times sigma^2, which is what an error of v or of a velocity wants.
    return (weight_B / noise_B if kind == "x0" else weight_B).float()

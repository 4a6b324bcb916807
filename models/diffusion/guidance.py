"""Classifier-free guidance.

Shape letters: B clips, C channels, T frames, H W height and width.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.diffusion.config import GuidanceConfig
from models.diffusion.shapes import per_clip

# (x_t [B, C, T, H, W], times [B]) -> the network's output [B, C, T, H, W].
Denoise = Callable[[Tensor, Tensor], Tensor]


def guided(*, conditional: Denoise, both: Denoise, config: GuidanceConfig) -> Denoise:
    """A denoiser steered towards its caption inside an interval of times.

    Inside the interval the conditional and the unconditional output come from one doubled
    batch; outside, and at scale 1, only the conditional one is computed. The combination is
    affine with weights that sum to 1, so it means the same for every prediction target.

    Args:
        conditional: denoiser of [B, ...] inputs with their captions.
        both: denoiser of [2B, ...] inputs, the first B with their captions, the rest without.
        config: scale, interval and rescale. All clips of a call must be at one time.

    Source: Ho and Salimans 2022, arXiv:2207.12598, in the convention of Imagen
    (arXiv:2205.11487, equation 2): scale 1 is off, and Imagen Video's w is scale - 1. Interval:
    Kynkaanniemi et al. 2024, arXiv:2404.07724 (theirs is in sigma, ours in t).
    """
    if config.scale == 1.0:
        return conditional
    low, high = config.interval

    def denoise(x_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        if not low <= float(t_B[0]) <= high:
            return conditional(x_BCTHW, t_B)
        output = both(torch.cat([x_BCTHW, x_BCTHW]), torch.cat([t_B, t_B]))
        with_BCTHW, without_BCTHW = output.chunk(2)
        mixed = without_BCTHW + config.scale * (with_BCTHW - without_BCTHW)
        return rescale_std(mixed, like=with_BCTHW, share=config.rescale)

    return denoise


def rescale_std(x_BCTHW: Tensor, *, like: Tensor, share: float) -> Tensor:
    """Moves each clip's standard deviation towards that of ``like``, [B, C, T, H, W].

    Args:
        x_BCTHW: guided outputs.
        like: conditional outputs, same shape.
        share: phi, 0 leaves x as it is, 1 gives it the standard deviation of ``like``.

    Source: Lin et al. 2023, arXiv:2305.08891, section 3.4; applied to the network's output, as
    there.
    """
    if share == 0.0:
        return x_BCTHW
    # An untrained transformer outputs zeros: 0 / tiny instead of 0 / 0.
    std_B = x_BCTHW.flatten(1).std(dim=1).clamp_min(torch.finfo(x_BCTHW.dtype).tiny)
    ratio = per_clip(like.flatten(1).std(dim=1) / std_B, like=x_BCTHW)
    return x_BCTHW * (share * ratio + (1 - share))

"""Classifier-free guidance.

Shape letters: B clips, C channels, T frames, H W height and width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.diffusion.config import GuidanceConfig
from models.diffusion.shapes import per_clip

# (x_t [B, C, T, H, W], times [B]) -> the network's output, [B, C, T, H, W], or
# [B, 2C, T, H, W] where it learns a variance.
Denoise = Callable[[Tensor, Tensor], Tensor]


def guided(
    *,
    conditional: Denoise,
    both: Denoise,
    config: GuidanceConfig,
    times: Sequence[float] = (),
) -> Denoise:
    """A denoiser steered towards its caption inside an interval of times.

    Inside the interval the conditional and the unconditional output come from one doubled
    batch; outside, and at scale 1, only the conditional one is computed.

    Args:
        conditional: denoiser of [B, ...] inputs with their captions.
        both: denoiser of [2B, ...] inputs, the first B with their captions, the rest without.
        config: scale, interval, rescale and oscillation. All clips of a call must be at one
            time.
        times: where the sampler's steps start, falling. Only an oscillating scale reads them:
            a call belongs to the step that starts nearest to its time, so heun's second call
            in a step already takes the scale of the next.

    Raises:
        ValueError: if the scale oscillates and no times are given.

    Source: Ho and Salimans 2022, arXiv:2207.12598, in the convention of Imagen
    (arXiv:2205.11487, equation 2): scale 1 is off, and Imagen Video's w is scale - 1. Interval:
    Kynkaanniemi et al. 2024, arXiv:2404.07724 (theirs is in sigma, ours in t).
    """
    if config.scale == 1.0:
        return conditional
    if config.oscillation is not None and not times:
        raise ValueError("guidance.oscillation counts sampling steps: got no times of theirs")
    low, high = config.interval

    def denoise(x_BCTHW: Tensor, t_B: Tensor) -> Tensor:
        t = float(t_B[0])
        scale = config.scale_at(_step_at(t, times=times), steps=len(times))
        if scale == 1.0 or not low <= t <= high:
            return conditional(x_BCTHW, t_B)
        output = both(torch.cat([x_BCTHW, x_BCTHW]), torch.cat([t_B, t_B]))
        with_, without = output.chunk(2)
        channels = x_BCTHW.shape[1]
        return combine(with_, without, channels=channels, scale=scale, rescale=config.rescale)

    return denoise


def combine(
    with_: Tensor, without: Tensor, *, channels: int, scale: float, rescale: float
) -> Tensor:
    """Guides the conditional output away from the unconditional one.

    The combination is affine with weights that sum to 1, so it means the same for every
    prediction target. It does not for a learned variance, whose logarithm would be pushed out
    of its bounds: channels after the clip's own stay as they are in the conditional output, as
    in the code of DiT (Peebles and Xie 2022, arXiv:2212.09748).

    Args:
        with_: conditional outputs, [B, C, T, H, W] or [B, 2C, T, H, W].
        without: unconditional outputs, same shape.
        channels: C.
        scale: 1 is the conditional output.
        rescale: as in ``rescale_std``.
    """
    aim, rest = with_[:, :channels], with_[:, channels:]
    start = without[:, :channels]
    mixed = rescale_std(start + scale * (aim - start), like=aim, share=rescale)
    return torch.cat([mixed, rest], dim=1) if rest.shape[1] else mixed


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


def _step_at(t: float, *, times: Sequence[float]) -> int:
    """Number of the step that starts nearest to a time; 0 without any times."""
    return min(range(len(times)), key=lambda step: abs(times[step] - t), default=0)

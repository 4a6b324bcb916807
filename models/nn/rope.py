"""Rotary position embedding on a (time, height, width) grid.

Shape letters: N grid cells in (time, height, width) order, K width of one head, P = K / 2 pairs.
The leading 2 of a table is (cos, sin). Channel i of a head is paired with channel i + P.
"""

from functools import lru_cache

import torch
from torch import Tensor

Grid = tuple[int, int, int]


def rope_table(
    grid: Grid,
    *,
    axes: Grid,
    theta: float,
    device: torch.device,
    unrotated: int = 0,
) -> Tensor:
    """Cosines and sines for every cell of a grid; the same tensor on every call (cached).

    Args:
        grid: cells in time, height and width; positions count from 0 on each axis.
        axes: channels of a head that turn with time, height and width; each even, sum K.
        theta: base of the frequencies theta^(-2 i / channels of the axis).
        device: where the table lives.
        unrotated: this many rows of angle 0 follow the grid (text tokens, which have no place
            in it).

    Returns:
        float32 [2, N + unrotated, P], never an inference tensor. Do not write to it.

    Source: Su et al. 2021, arXiv:2104.09864, equation 34, with the axes of a grid on separate
    channels as in HunyuanVideo, arXiv:2412.03603, section 4.2.1.
    """
    return _table(grid, axes, theta, device, unrotated)


# A few grids per run (shape buckets); images and clips of one bucket share nothing but the cache.
@lru_cache(maxsize=64)
def _table(grid: Grid, axes: Grid, theta: float, device: torch.device, unrotated: int) -> Tensor:
    # A preview may be the first to ask; its table must serve training too.
    with torch.inference_mode(False), torch.no_grad():
        angles_NP = _angles(grid, axes, theta)
        angles_NP = torch.cat([angles_NP, angles_NP.new_zeros(unrotated, sum(axes) // 2)])
        return torch.stack([angles_NP.cos(), angles_NP.sin()]).float().to(device)


def _angles(grid: Grid, axes: Grid, theta: float) -> Tensor:
    # On the CPU and in float64 whatever the default device: a table is built once.
    parts: list[Tensor] = []
    for dim, (cells, channels) in enumerate(zip(grid, axes, strict=True)):
        steps = torch.arange(0, channels, 2, dtype=torch.float64, device="cpu")
        positions = torch.arange(cells, dtype=torch.float64, device="cpu")
        angles = positions[:, None] * theta ** (-steps / channels)
        shape = [1, 1, 1, channels // 2]
        shape[dim] = cells
        parts.append(angles.view(shape).expand(*grid, channels // 2))
    return torch.cat(parts, dim=-1).flatten(0, 2)


def rotate(x_BHNK: Tensor, rope_2NP: Tensor) -> Tensor:
    """Turns each pair of channels by its position's angle.

    Returns [B, H, N, K] in the dtype of ``x_BHNK``. Products are taken in the table's float32 or
    better: cosines in bf16 would blur far positions.
    """
    a_BHNP, b_BHNP = x_BHNK.chunk(2, dim=-1)
    cos_NP, sin_NP = rope_2NP[0], rope_2NP[1]
    return torch.cat(
        [a_BHNP * cos_NP - b_BHNP * sin_NP, b_BHNP * cos_NP + a_BHNP * sin_NP], dim=-1
    ).to(x_BHNK.dtype)

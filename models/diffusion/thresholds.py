"""Keeping a predicted clean clip in the range of pixels.

Shape letters: B clips, C channels, T frames, H W height and width. Nothing here depends on the
number of dimensions after B.
"""

import math

from torch import Tensor

from models.diffusion.shapes import per_clip


def clip_static(x_BCTHW: Tensor) -> Tensor:
    """Cuts every value to [-1, 1].

    Source: Saharia et al. 2022 (Imagen), arXiv:2205.11487, section 2.3.
    """
    return x_BCTHW.clamp(-1.0, 1.0)


def clip_dynamic(x_BCTHW: Tensor, *, percentile: float) -> Tensor:
    """Cuts each clip at a percentile of its absolute values and divides it by that.

    A clip whose percentile is below 1 is cut to [-1, 1] as it is.

    Args:
        x_BCTHW: predicted clean clips, float32 or float64.
        percentile: share of the values left whole, above 0, at most 1. The percentile is the
            smallest value that reaches this share, with no line between neighbours.

    Source: Saharia et al. 2022 (Imagen), arXiv:2205.11487, section 2.3. One percentile over
    all frames of a clip is ours: the paper knows images only, and one per frame would flicker.
    """
    size_BN = x_BCTHW.abs().flatten(1)
    # Not torch.quantile: it sorts, and refuses more than 16 million values.
    rank = max(1, math.ceil(percentile * size_BN.shape[1]))
    edge_B = size_BN.kthvalue(rank, dim=1).values.clamp_min(1.0)
    edge = per_clip(edge_B, like=x_BCTHW)
    return x_BCTHW.clamp(-edge, edge) / edge

"""Bringing a smaller clip to the size of the next network, and a larger one down.

Shape letters: B clips, C channels, t T frames, h H height, w W width; small letters are the
smaller clip's.
"""

import torch.nn.functional as F
from torch import Tensor


def enlarge(x_BCThw: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Every frame by bilinear interpolation, [B, C, T, H, W].

    Source: Ho et al. 2022 (Imagen Video), arXiv:2210.02303, section 2.3.
    """
    frames = x_BCThw.transpose(1, 2).flatten(0, 1)
    large = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    return large.unflatten(0, (len(x_BCThw), -1)).transpose(1, 2)


def repeat_frames(x_BCtHW: Tensor, *, factor: int) -> Tensor:
    """Every frame ``factor`` times in a row, [B, C, t * factor, H, W].

    Source: arXiv:2210.02303, section 2.3, which has blank frames as the other choice.
    """
    return x_BCtHW.repeat_interleave(factor, dim=2)


def shrink(x_NCHW: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Frames by bilinear interpolation with antialiasing, [N, C, h, w].

    Source: arXiv:2210.02303, section 2.2: the clips of every stage are made from the same ones
    by antialiased resizing; which filter is not published.
    """
    if tuple(x_NCHW.shape[-2:]) == tuple(size):
        return x_NCHW
    return F.interpolate(x_NCHW, size=size, mode="bilinear", align_corners=False, antialias=True)

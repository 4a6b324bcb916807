"""Bringing a smaller clip to the size of the next network, and a larger one down.

Shape letters: B clips, C channels, t T frames, h H height, w W width; small letters are the
smaller clip's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.config import MissingFrames


def enlarge(x_BCThw: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Every frame by bilinear interpolation, [B, C, T, H, W].

    Source: Ho et al. 2022 (Imagen Video), arXiv:2210.02303, section 2.3.
    """
    frames = x_BCThw.transpose(1, 2).flatten(0, 1)
    large = F.interpolate(frames, size=size, mode="bilinear", align_corners=False)
    return large.unflatten(0, (len(x_BCThw), -1)).transpose(1, 2)


def insert_frames(x_BCtHW: Tensor, *, factor: int, missing: MissingFrames) -> Tensor:
    """``factor`` frames for each, the first of them itself, [B, C, t * factor, H, W].

    Args:
        x_BCtHW: the clip with fewer frames, pixels in [-1, 1].
        factor: how many times as many frames are wanted.
        missing: ``repeat`` the frame until the next one, ``blank`` (zeros, a medium grey), or
            ``blend`` it linearly into the next one; the last one stays.

    Source: arXiv:2210.02303, section 2.3, which names repeated and blank frames and not which of
    them it took. Blended ones are ours: the nearer the input is to the clip that is wanted, the
    less is left for a small network to learn.
    """
    if missing == "repeat":
        return x_BCtHW.repeat_interleave(factor, dim=2)
    places = torch.arange(x_BCtHW.shape[2] * factor, device=x_BCtHW.device)
    before, step = places // factor, (places % factor).view(-1, 1, 1)
    if missing == "blank":
        return x_BCtHW[:, :, before] * (step == 0)
    after = (before + 1).clamp_max(x_BCtHW.shape[2] - 1)
    return torch.lerp(x_BCtHW[:, :, before], x_BCtHW[:, :, after], (step / factor).to(x_BCtHW))


def shrink(x_NCHW: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Frames by bilinear interpolation with antialiasing, [N, C, h, w].

    Source: arXiv:2210.02303, section 2.2: the clips of every stage are made from the same ones
    by antialiased resizing; which filter is not published.
    """
    if tuple(x_NCHW.shape[-2:]) == tuple(size):
        return x_NCHW
    return F.interpolate(x_NCHW, size=size, mode="bilinear", align_corners=False, antialias=True)

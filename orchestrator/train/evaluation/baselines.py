"""Making a clip larger without a network.

Shape letters: B clips, C channels, t T frames, h H height, w W width; small letters are the
smaller clip's.
"""

import torch.nn.functional as F
from torch import Tensor

from models.cascade.lift import insert_frames


def bicubic(x_BCThw: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Every frame by bicubic interpolation, cut to [-1, 1], [B, C, T, H, W]."""
    frames = x_BCThw.transpose(1, 2).flatten(0, 1)
    large = F.interpolate(frames, size=size, mode="bicubic", align_corners=False)
    return large.clamp(-1.0, 1.0).unflatten(0, (len(x_BCThw), -1)).transpose(1, 2)


def repeat(x_BCtHW: Tensor, *, factor: int, frames: int) -> Tensor:
    """Every frame until the next one, [B, C, frames, H, W]."""
    return insert_frames(x_BCtHW, factor=factor, missing="repeat")[:, :, :frames]


def blend(x_BCtHW: Tensor, *, factor: int, frames: int) -> Tensor:
    """Every frame fading into the next one; the last one stays, [B, C, frames, H, W]."""
    return insert_frames(x_BCtHW, factor=factor, missing="blend")[:, :, :frames]

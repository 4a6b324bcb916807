"""Frames in channels_last memory, and the same numbers as tokens or clips.

Shape letters:
  N frames of all clips, those of a clip one after another   B clips   T frames of a clip
  C channels   H W height and width   P positions of a frame (H * W)

Memory of channels_last frames [N, C, H, W] runs over clip, frame, row, column, channel. So clip
and frame, or row and column, are split and merged as views. Other layouts work, by copies.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrameNorm(nn.GroupNorm):
    """Group norm of every frame by itself, channels_last on every device."""

    def forward(self, input: Tensor) -> Tensor:
        """Returns the shape of [N, C, H, W]."""
        return super().forward(input).contiguous(memory_format=torch.channels_last)


def fold_clips(x_BCTHW: Tensor) -> Tensor:
    """[B, C, T, H, W] to [N, C, H, W], channels_last."""
    return x_BCTHW.permute(0, 2, 3, 4, 1).flatten(0, 1).contiguous().permute(0, 3, 1, 2)


def unfold_clips(x_NCHW: Tensor, *, clips: int) -> Tensor:
    """[N, C, H, W] to [B, C, T, H, W]."""
    return x_NCHW.unflatten(0, (clips, -1)).transpose(1, 2)


def to_tokens(x_NCHW: Tensor) -> Tensor:
    """[N, C, H, W] to [N, P, C]."""
    return x_NCHW.permute(0, 2, 3, 1).flatten(1, 2)


def to_clips(x_NCHW: Tensor, *, frames: int) -> Tensor:
    """[N, C, H, W] to [B, T, P, C]."""
    return to_tokens(x_NCHW).unflatten(0, (-1, frames))


def to_frames(x: Tensor, *, like: Tensor) -> Tensor:
    """The inverse of ``to_tokens`` and ``to_clips``: the size of ``like``, channels_last."""
    count, _, height, width = like.shape
    return x.reshape(count, height, width, -1).permute(0, 3, 1, 2)


def halve(x_NCHW: Tensor) -> Tensor:
    """Means of 2x2 positions."""
    return F.avg_pool2d(x_NCHW, 2)


def double(x_NCHW: Tensor) -> Tensor:
    """Every position four times."""
    return F.interpolate(x_NCHW, scale_factor=2, mode="nearest")

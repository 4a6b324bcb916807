"""Layers of the causal video autoencoder.

Shape letters: B clips, C channels, T H W frames, height and width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.causal_conv import CausalConv3d, Past, depth_to_space, space_to_depth


class ChannelNorm(nn.RMSNorm):
    """RMS norm over the channels of every position: no statistics over time or space.

    So a chunk of a clip is normalised as the whole is. Source: Wan 2.1, arXiv:2503.20314,
    section 4.1, which replaces group norm for this reason.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the shape of [B, C, T, H, W]."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Two causal convolutions around a shortcut."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm_in = ChannelNorm(in_channels)
        self.conv_in = CausalConv3d(in_channels, out_channels)
        self.norm_out = ChannelNorm(out_channels)
        self.conv_out = CausalConv3d(out_channels, out_channels, kernel=(1, 3, 3))
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv3d(in_channels, out_channels, 1)
        )

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """Returns [B, out_channels, T, H, W]."""
        h_BCTHW = self.conv_in(F.silu(self.norm_in(x_BCTHW)), past)
        h_BCTHW = self.conv_out(F.silu(self.norm_out(h_BCTHW)))
        return self.shortcut(x_BCTHW) + h_BCTHW


class Shrink(nn.Module):
    """Halves time, space or both; the first frame of a clip stays one by itself."""

    def __init__(self, channels: int, *, time: bool, space: bool) -> None:
        super().__init__()
        self.space = CausalConv3d(channels, channels, kernel=(1, 3, 3), stride=(1, 2, 2))
        self.time = CausalConv3d(channels, channels, kernel=(3, 1, 1), stride=(2, 1, 1))
        if not space:
            self.space = nn.Identity()
        if not time:
            self.time = None

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """Returns [B, C, T', H', W'] with T' = (T - 1) / 2 + 1 for a whole clip."""
        x_BCTHW = self.space(x_BCTHW)
        return x_BCTHW if self.time is None else self.time(x_BCTHW, past)


class Grow(nn.Module):
    """Doubles time, space or both; the first frame of a clip stays one."""

    def __init__(self, channels: int, *, time: bool, space: bool) -> None:
        super().__init__()
        self.time = nn.Conv3d(channels, 2 * channels, 1) if time else None
        self.space = CausalConv3d(channels, 4 * channels, kernel=(1, 3, 3)) if space else None

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:
        """Returns [B, C, T', H', W'] with T' = 2T - 1 for a whole clip."""
        if self.time is not None:
            # [B, 2C, T] -> [B, C, 2T]: two frames from every latent one.
            pairs = self.time(x_BCTHW).unflatten(1, (2, -1)).permute(0, 2, 3, 1, 4, 5)
            x_BCTHW = pairs.flatten(2, 3)
            if past is None or past.chunks == 0:
                x_BCTHW = x_BCTHW[:, :, 1:]
        if self.space is not None:
            x_BCTHW = depth_to_space(self.space(x_BCTHW), factor=2)
        return x_BCTHW


__all__ = ["ChannelNorm", "Grow", "ResidualBlock", "Shrink", "space_to_depth"]

"""Layers of a space-time U-Net: residual blocks and attention, on frames.

Shape letters:
  N frames of all clips, those of a clip one after another   C channels   H W height and width
  P positions of a frame (H * W)   D width of the conditioning   L tokens to attend to
  G captions: one per clip, or one per frame   M positions under one caption (P * N / G)

Frames are channels_last (models/nn/frames.py).
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.nn.attention import CrossAttention, SelfProjection, attend
from models.nn.dropout import ClipDropout
from models.nn.frames import FrameNorm, double, halve, to_frames, to_tokens
from models.nn.temporal import PseudoConv, TemporalAttention
from models.nn.unet_config import UNetConfig

SKIP_SCALE = 2**-0.5
Resample = Literal["down", "up"]


class Conditions(NamedTuple):
    """What every layer reads beside its input."""

    cond_ND: Tensor  # after its SiLU
    context_GLD: Tensor | None
    mask_G11L: Tensor | None  # bool, True = attended
    rope_2TR: Tensor | None  # places of the frames, for rotary temporal attention
    video_B111: Tensor | None  # see models/nn/temporal.py
    frames: int  # of a clip, or 1 if no clip of the batch is a video
    dropout_N: Tensor | None = None  # seeds of the frames, see models/nn/dropout.py


class ResidualBlock(nn.Module):
    """Two convolutions around a shortcut; the conditioning scales and shifts between them.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix A: adaptive group
    norm, BigGAN resampling (input and shortcut are halved or doubled before the first
    convolution), and the zero second convolution of their published code.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        config: UNetConfig,
        resample: Resample | None = None,
    ) -> None:
        super().__init__()
        kernel = config.kernel_over_time
        self.resample = resample
        self.norm_in = FrameNorm(config.groups, in_channels)
        self.conv_in = PseudoConv(in_channels, out_channels, kernel=kernel)
        self.modulation = nn.Linear(config.embed_width, 2 * out_channels)
        self.norm_out = FrameNorm(config.groups, out_channels)
        self.dropout = ClipDropout(config.dropout) if config.dropout else None
        self.conv_out = PseudoConv(out_channels, out_channels, kernel=kernel)
        # A linear layer on tokens is a 1x1 convolution on frames, and the faster of the two.
        self.shortcut = (
            None if in_channels == out_channels else nn.Linear(in_channels, out_channels)
        )
        _zero(self.conv_out.space)

    def forward(self, x_NCHW: Tensor, conditions: Conditions) -> Tensor:
        """Returns [N, out_channels, H', W'] with sides halved or doubled by ``resample``."""
        frames, video_B111 = conditions.frames, conditions.video_B111
        h_NCHW = F.silu(self.norm_in(x_NCHW))
        if self.resample is not None:
            resample = halve if self.resample == "down" else double
            h_NCHW, x_NCHW = resample(h_NCHW), resample(x_NCHW)
        h_NCHW = self.conv_in(h_NCHW, frames=frames, video_B111=video_B111)
        scale, shift = self.modulation(conditions.cond_ND)[..., None, None].chunk(2, dim=1)
        h_NCHW = torch.addcmul(shift, self.norm_out(h_NCHW), 1 + scale)
        h_NCHW = F.silu(h_NCHW)
        if self.dropout is not None:
            h_NCHW = self.dropout(h_NCHW, conditions.dropout_N)
        h_NCHW = self.conv_out(h_NCHW, frames=frames, video_B111=video_B111)
        if self.shortcut is not None:
            x_NCHW = to_frames(self.shortcut(to_tokens(x_NCHW)), like=x_NCHW)
        return x_NCHW + h_NCHW


class SpatialAttention(nn.Module):
    """Adds attention of the positions of each frame to one another; zero at first.

    Source: the attention block of Dhariwal & Nichol 2021, arXiv:2105.05233, section 3; the
    qk-norm is ours (models/nn/attention.py).
    """

    def __init__(self, width: int, *, config: UNetConfig) -> None:
        super().__init__()
        self.norm = FrameNorm(config.groups, width)
        self.project = SelfProjection(width=width, heads=width // config.head_width)
        self.out = nn.Linear(width, width)
        _zero(self.out)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Returns [N, C, H, W]."""
        gathered_NPC = attend(*self.project(to_tokens(self.norm(x_NCHW))))
        return x_NCHW + to_frames(self.out(gathered_NPC), like=x_NCHW)


class ContextAttention(nn.Module):
    """Adds attention of every position to text and image tokens; zero at first.

    A layer of its own after the attention within the frame. GLIDE (Nichol et al. 2021,
    arXiv:2112.10741, section 4.1) joins the tokens to that attention's keys instead, which needs
    both at the same levels; Imagen's 256 to 1024 stage attends to text only (arXiv:2205.11487,
    appendix F).
    """

    def __init__(self, width: int, *, config: UNetConfig) -> None:
        super().__init__()
        self.norm = FrameNorm(config.groups, width)
        self.attention = CrossAttention(
            width=width, heads=width // config.head_width, text_width=config.embed_width
        )
        self.attention.reset_parameters()

    def forward(self, x_NCHW: Tensor, context_GLD: Tensor, mask_G11L: Tensor) -> Tensor:
        """Returns [N, C, H, W]."""
        tokens_NPC = to_tokens(self.norm(x_NCHW))
        captions, channels = len(context_GLD), tokens_NPC.shape[-1]
        tokens_GMC = tokens_NPC.reshape(captions, -1, channels)
        update_GMC = self.attention(tokens_GMC, context_GLD, mask_G11L)
        return x_NCHW + to_frames(update_GMC, like=x_NCHW)


class Layer(nn.Module):
    """A residual block and the attention that its level has; compiled or recomputed as a whole."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        config: UNetConfig,
        level: int | None,
        skip_channels: int = 0,
        resample: Resample | None = None,
    ) -> None:
        """Args: ``level`` whose attention follows (or None), ``skip_channels`` that are joined."""
        super().__init__()
        self.has_skip = skip_channels > 0
        self.skip_scale = SKIP_SCALE if config.skip_scale else 1.0
        self.residual = ResidualBlock(
            in_channels + skip_channels, out_channels, config=config, resample=resample
        )
        self.spatial = (
            SpatialAttention(out_channels, config=config) if level in config.attention else None
        )
        self.context = (
            ContextAttention(out_channels, config=config)
            if level in config.context_attention
            else None
        )
        self.temporal = (
            TemporalAttention(
                width=out_channels,
                heads=out_channels // config.head_width,
                max_distance=(config.max_distance if config.time_position == "relative" else None),
            )
            if level in config.temporal_attention
            else None
        )

    def forward(
        self, x_NCHW: Tensor, conditions: Conditions, skip_NCHW: Tensor | None = None
    ) -> Tensor:
        """Returns [N, out_channels, H', W']."""
        if skip_NCHW is not None:
            if self.skip_scale != 1.0:
                skip_NCHW = skip_NCHW * self.skip_scale
            x_NCHW = torch.cat([x_NCHW, skip_NCHW], dim=1)
        x_NCHW = self.residual(x_NCHW, conditions)
        if self.spatial is not None:
            x_NCHW = self.spatial(x_NCHW)
        if self.context is not None:
            assert conditions.context_GLD is not None
            assert conditions.mask_G11L is not None
            x_NCHW = self.context(x_NCHW, conditions.context_GLD, conditions.mask_G11L)
        if self.temporal is not None:
            x_NCHW = self.temporal(
                x_NCHW,
                frames=conditions.frames,
                video_B111=conditions.video_B111,
                rope_2TR=conditions.rope_2TR,
            )
        return x_NCHW


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)

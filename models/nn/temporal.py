"""Layers that mix the frames of a clip, all of them identity maps when fresh.

Shape letters:
  N frames of all clips   B clips   T frames of a clip that belong together (N = B * T)
  C channels   H W height and width   P positions of a frame (H * W)   S sequences (B * P)
  A attention heads   K width of one head   R rotary pairs of a head

T = 1 stands for a batch without a video. Then no frames are mixed and every weight here gets a
gradient of zeros: sharded optimizers want a gradient for each of them in every step.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.nn.attention import SelfProjection, attend
from models.nn.frames import to_clips, to_frames
from models.nn.norms import EPS
from models.nn.rope import rotate

MAX_SEQUENCES = 65_535  # of one attention: CUDA kernels launch no more (pytorch issue 142228)


class _ZeroGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(*weights)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return grads[0], *(torch.zeros_like(weight) for weight in ctx.saved_tensors)


def with_zero_gradients(x: Tensor, weights: Iterable[Tensor]) -> Tensor:
    """Returns ``x``; the backward pass gives zeros to weights that had no part in it."""
    return _ZeroGradients.apply(x, *weights)  # pyright: ignore[reportReturnType]


def add_to_videos(x: Tensor, update: Tensor, video_B111: Tensor | None) -> Tensor:
    """x + update, or x itself where ``video_B111`` is 0 (all are videos if it is None)."""
    return x + update if video_B111 is None else torch.addcmul(x, video_B111, update)


class TemporalConv(nn.Module):
    """Adds a convolution over a few frames; weights zero at first. Beyond the ends are zeros.

    Source: the 1D half of Conv_P3D, Singer et al. 2022 (Make-A-Video), arXiv:2209.14792, section
    3.2.1, which is initialised as the identity (Dirac weights in make-a-video-pytorch). Here the
    identity stands beside the weights, not in them: the same functions and the same start, which
    is exact in every precision. The paper gives no width; that code's is 3.
    """

    def __init__(self, channels: int, *, kernel: int) -> None:
        """Args: ``kernel``, frames that a weight spans; odd."""
        super().__init__()
        # Over [B, C, T, P]: in two dimensions, so that P need not be moved into the batch.
        self.conv = nn.Conv2d(channels, channels, (kernel, 1), padding=(kernel // 2, 0))
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # pyright: ignore[reportArgumentType]

    def forward(self, x_NCHW: Tensor, *, frames: int, video_B111: Tensor | None) -> Tensor:
        """Returns [N, C, H, W].

        Args:
            x_NCHW: frames, those of a clip one after another.
            frames: T.
            video_B111: 1, or 0 for clips whose frames are images of their own and stay as they
                are; None means that all are videos.
        """
        if frames == 1:
            return with_zero_gradients(x_NCHW, self.parameters())
        x_BCTP = to_clips(x_NCHW, frames=frames).permute(0, 3, 1, 2)
        mixed_BCTP = add_to_videos(x_BCTP, self.conv(x_BCTP), video_B111)
        return to_frames(mixed_BCTP.permute(0, 2, 3, 1), like=x_NCHW)


class PseudoConv(nn.Module):
    """A 3x3 convolution of every frame, then one over time if it has a ``kernel`` for it.

    Source: Conv_P3D, Make-A-Video, arXiv:2209.14792, section 3.2.1.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int | None, stride: int = 1
    ) -> None:
        """Args: ``kernel`` over time in frames, None for images; ``stride`` over space."""
        super().__init__()
        self.space = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1)
        self.time = None if kernel is None else TemporalConv(out_channels, kernel=kernel)

    def forward(self, x_NCHW: Tensor, *, frames: int, video_B111: Tensor | None) -> Tensor:
        """Returns [N, out_channels, H / stride, W / stride]; see ``TemporalConv``."""
        h_NCHW = self.space(x_NCHW)
        if self.time is None:
            return h_NCHW
        return self.time(h_NCHW, frames=frames, video_B111=video_B111)


class RelativePosition(nn.Module):
    """A learned bias per head for every distance between a query's and a key's frame.

    Source: biases added to the logits as in T5, Raffel et al. 2019, arXiv:1910.10683, section
    2.1; far distances share one by clipping, Shaw et al. 2018, arXiv:1803.02155, section 3.2,
    where T5 has logarithmic buckets. Ho et al. 2022 (VDM), arXiv:2204.03458, section 3, names
    relative position embeddings and no form of them.
    """

    def __init__(self, heads: int, *, max_distance: int) -> None:
        """Args: ``max_distance`` in frames; the bias of a longer one is that of this one."""
        super().__init__()
        self.max_distance = max_distance
        self.bias = nn.Parameter(torch.zeros(heads, 2 * max_distance + 1))

    def forward(self, frames: int) -> Tensor:
        """Returns [A, T, T], queries before keys."""
        places = torch.arange(frames, device=self.bias.device)
        distance_TT = places[None, :] - places[:, None]
        most = self.max_distance
        return self.bias[:, distance_TT.clamp(-most, most) + most]


class TemporalAttention(nn.Module):
    """Adds attention of every position to itself in all frames; the output is zero at first.

    Source: Ho et al. 2022 (VDM), arXiv:2204.03458, section 3, and Attn_P3D of Make-A-Video,
    arXiv:2209.14792, section 3.2.2, with its zero output projection. Ours: a LayerNorm over the
    channels (so no statistics over frames) and qk-norm. Independent images skip the layer, where
    VDM (section 3.1) lets each attend to itself alone: then a batch without a video needs none of
    it, and an image network stays what it was.
    """

    def __init__(self, *, width: int, heads: int, max_distance: int | None) -> None:
        """Args: ``max_distance`` of the relative bias; None for none, see ``rope_2TR``."""
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.project = SelfProjection(width=width, heads=heads)
        self.relative = (
            None if max_distance is None else RelativePosition(heads, max_distance=max_distance)
        )
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x_NCHW: Tensor,
        *,
        frames: int,
        video_B111: Tensor | None,
        rope_2TR: Tensor | None,
    ) -> Tensor:
        """Returns [N, C, H, W].

        Args:
            x_NCHW: frames, those of a clip one after another.
            frames: T.
            video_B111: see ``TemporalConv``.
            rope_2TR: cosines and sines of the frames' places, or None for a relative bias.
        """
        if frames == 1:
            return with_zero_gradients(x_NCHW, self.parameters())
        x_BTPC = to_clips(x_NCHW, frames=frames)
        h_STC = self.norm(x_BTPC.transpose(1, 2)).flatten(0, 1)
        q_SATK, k_SATK, v_SATK = self.project(h_STC)
        if rope_2TR is not None:
            q_SATK, k_SATK = rotate(q_SATK, rope_2TR), rotate(k_SATK, rope_2TR)
        bias_1ATT = None if self.relative is None else self.relative(frames)[None]
        update_STC = self.out(_attend_in_parts(q_SATK, k_SATK, v_SATK, bias_1ATT))
        update_BTPC = update_STC.unflatten(0, (len(x_BTPC), -1)).transpose(1, 2)
        return to_frames(add_to_videos(x_BTPC, update_BTPC, video_B111), like=x_NCHW)


def _attend_in_parts(q_SATK: Tensor, k_SATK: Tensor, v_SATK: Tensor, bias: Tensor | None) -> Tensor:
    """Returns [S, T, C]."""
    if len(q_SATK) <= MAX_SEQUENCES:
        return attend(q_SATK, k_SATK, v_SATK, bias)
    parts = zip(*(one.split(MAX_SEQUENCES) for one in (q_SATK, k_SATK, v_SATK)), strict=True)
    return torch.cat([attend(q, k, v, bias) for q, k, v in parts])

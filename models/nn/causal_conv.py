"""Convolution over video that never looks ahead, whole or chunk by chunk.

Shape letters: B clips, C channels, T H W frames, height and width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Past:
    """What the causal layers of one network remember between two chunks of a clip.

    Layers take and keep their frames in the order in which they run, so one object serves a whole
    network and no state hides in a module.
    """

    def __init__(self) -> None:
        self._frames: list[Tensor] = []
        self._position = 0
        self.chunks = 0

    def swap(self, x_BCTHW: Tensor, *, keep: int) -> Tensor | None:
        """Returns the last frames before this chunk (None in the first) and keeps its own.

        Args:
            x_BCTHW: the layer's input chunk.
            keep: frames that the next chunk will ask for.
        """
        before = self._frames[self._position] if self.chunks else None
        joined = x_BCTHW if before is None else torch.cat([before, x_BCTHW], dim=2)
        frames = joined[:, :, joined.shape[2] - min(keep, joined.shape[2]) :]
        if frames.shape[2] < keep:
            frames = _repeat_first(frames, times=keep - frames.shape[2])
        if self.chunks:
            self._frames[self._position] = frames
        else:
            self._frames.append(frames)
        self._position += 1
        return before

    def next_chunk(self) -> None:
        """Call when the network has seen a whole chunk."""
        self.chunks += 1
        self._position = 0


class CausalConv3d(nn.Conv3d):
    """3D convolution whose output at frame t sees frames up to t; space is padded with zeros.

    Before the first frame stand copies of it, so a still image and a still video agree.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel: tuple[int, int, int] = (3, 3, 3),
        stride: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        padding = (0, kernel[1] // 2, kernel[2] // 2)
        super().__init__(in_channels, out_channels, kernel, stride=stride, padding=padding)
        self.context = kernel[0] - 1  # frames before the first one of a clip
        self.carried = kernel[0] - stride[0]  # frames before the first one of a later chunk

    def forward(self, x_BCTHW: Tensor, past: Past | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns [B, out_channels, T', H', W']; T' = (T - 1) // stride + 1 for a whole clip."""
        if self.context:
            before = None if past is None else past.swap(x_BCTHW, keep=self.carried)
            if before is None:
                x_BCTHW = _repeat_first(x_BCTHW, times=self.context)
            else:
                x_BCTHW = torch.cat([before, x_BCTHW], dim=2)
        return super().forward(x_BCTHW)


def fold_frames(x_BCTHW: Tensor) -> Tensor:
    """[B, C, T, H, W] to images [B*T, C, H, W]."""
    return x_BCTHW.transpose(1, 2).flatten(0, 1)


def unfold_frames(x_NCHW: Tensor, *, clips: int) -> Tensor:
    """Images [B*T, C, H, W] back to [B, C, T, H, W]."""
    return x_NCHW.unflatten(0, (clips, -1)).transpose(1, 2)


def space_to_depth(x_BCTHW: Tensor, *, factor: int) -> Tensor:
    """[B, C, T, H, W] to [B, C*factor^2, T, H/factor, W/factor]."""
    if factor == 1:
        return x_BCTHW
    return unfold_frames(F.pixel_unshuffle(fold_frames(x_BCTHW), factor), clips=x_BCTHW.shape[0])


def depth_to_space(x_BCTHW: Tensor, *, factor: int) -> Tensor:
    """The inverse of ``space_to_depth``."""
    if factor == 1:
        return x_BCTHW
    return unfold_frames(F.pixel_shuffle(fold_frames(x_BCTHW), factor), clips=x_BCTHW.shape[0])


def _repeat_first(x_BCTHW: Tensor, *, times: int) -> Tensor:
    first = x_BCTHW[:, :, :1].expand(-1, -1, times, -1, -1)
    return torch.cat([first, x_BCTHW], dim=2)

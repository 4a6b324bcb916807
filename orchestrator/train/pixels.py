"""Between stored frames (uint8, [T,H,W,3]) and what networks see (float, [B,3,T,H,W])."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from orchestrator.train.transfer import stacked_on_device


def as_pixels(
    samples: Sequence[Mapping[str, Any]], *, frames: int | None, device: torch.device
) -> Tensor:
    """Stacks decoded clips into [B, 3, T, H, W], float32 in [-1, 1].

    Args:
        samples: each with ``frames``, uint8 [T, H, W, 3], all of one shape.
        frames: take the first that many, or all if None.
        device: where they go, as they are stored: a fourth of the bytes.
    """
    clips = [sample["frames"][:frames] for sample in samples]
    x_BTHW3 = stacked_on_device(clips, device=device)
    return x_BTHW3.permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1.0).contiguous()


def to_uint8(video_B3THW: Tensor) -> np.ndarray:
    """Clips [B, 3, T, H, W] in [-1, 1] to uint8 frames [B, T, H, W, 3]."""
    scaled = (video_B3THW.float().clamp(-1.0, 1.0) + 1.0).mul(127.5).round()
    return scaled.to(torch.uint8).permute(0, 2, 3, 4, 1).cpu().numpy()

"""What a stage keeps of a decoded clip, and which of its frames a training step sees.

Shape letters: F frames of a stored clip, T frames of a training clip, H W height and width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.cascade.lift import shrink
from models.nn.unet_config import UNetConfig
from orchestrator.recipe.chain import upsampling
from orchestrator.recipe.fields import Size
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage

FRAMES = "frames"  # at the stage's own size
LOW = "low"  # at the size of the stage that it enlarges in space
PICTURE = "picture"  # as the pair of encoders sees it
PRETRAINED_SIDE = 256  # pixels of a picture's shorter side for a pretrained pair


@dataclass(frozen=True)
class ClipView:
    """All frames of a stored clip in each size that a stage needs, by name.

    Attributes:
        sizes: height and width; None for the shorter side of a pretrained pair's pictures.
    """

    sizes: Mapping[str, Size | None]

    def __call__(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """From ``frames``, uint8 [F, H, W, 3], to arrays of that kind."""
        frames = arrays["frames"]
        return {name: _resized(frames, size) for name, size in self.sizes.items()}


def view_of(recipe: Recipe, stage: Stage) -> ClipView | None:
    """The view of a training stage; None for one that reads clips, or latents, as they are."""
    train = stage.training
    sizes: dict[str, Size | None] = {FRAMES: train.clip.size}
    match train.model:
        case UNetConfig(low_resolution=True):
            assert stage.upsamples is not None
            below = upsampling(stage, parent=recipe.stage(stage.upsamples))
            if below.kind == "space":
                sizes[LOW] = below.size
        case _ if train.model.kind in ("video_autoencoder", "video_dit"):
            return None
        case _:
            pass
    if stage.pair is not None and reads_pictures(stage):
        sizes[PICTURE] = recipe.stage(stage.pair).training.clip.size
    elif recipe.pair is not None and reads_pictures(stage):
        sizes[PICTURE] = None
    return ClipView(sizes=sizes)


def reads_pictures(stage: Stage) -> bool:
    """Whether a stage reads or predicts image embeddings."""
    model = stage.training.model
    return model.kind == "clip_prior" or (
        isinstance(model, UNetConfig) and model.image_embedding is not None
    )


def frame_numbers(
    uniform: float, *, stored: int, stored_fps: float, frames: int, fps: float
) -> NDArray[np.int64]:
    """The stored frames that are nearest to ``frames`` frames at a rate, [T].

    The window takes in the time that they stand for, T / ``fps`` seconds, where the clip is so
    long: a network that puts frames between them, and after the last, then stays within the clip.

    Args:
        uniform: draw in [0, 1) that places the window in the stored clip.
        stored: F.
        stored_fps: frames per second of the stored clip.
        frames: T.
        fps: frames per second that are wanted; see ``possible_fps``.
    """
    offsets = np.floor(np.arange(frames) * stored_fps / fps + 0.5).astype(np.int64)
    span = round(frames * stored_fps / fps) if frames > 1 else 1
    return offsets + int(uniform * (max(stored - span, 0) + 1))


def possible_fps(fps: float, *, stored: int, stored_fps: float, frames: int) -> float:
    """The nearest rate at which a stored clip has so many different frames."""
    lowest = stored_fps * max(frames - 1, 1) / max(stored - 1, 1)
    return min(max(fps, lowest), stored_fps)


def _resized(frames_FHW3: NDArray[np.uint8], size: Size | None) -> NDArray[np.uint8]:
    if size is None:
        height, width = frames_FHW3.shape[1:3]
        scale = min(1.0, PRETRAINED_SIDE / min(height, width))
        size = (round(height * scale), round(width * scale))
    if frames_FHW3.shape[1:3] == tuple(size):
        return frames_FHW3
    x_F3HW = torch.from_numpy(frames_FHW3).permute(0, 3, 1, 2).float()
    small = shrink(x_F3HW, size=size).round().clamp(0, 255).to(torch.uint8)
    return small.permute(0, 2, 3, 1).contiguous().numpy()

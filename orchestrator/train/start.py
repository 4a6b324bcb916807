"""Frames from a file that a clip starts from: a picture to animate, or a clip to go on from.

Shape letters: T frames, H height, W width.
"""

from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import PIL.ImageSequence
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.sora.dit_config import DiTConfig
from orchestrator.data.decode import decode
from orchestrator.errors import UserError
from orchestrator.recipe.fields import Size
from orchestrator.recipe.stage import Stage
from orchestrator.train.pixels import as_pixels, to_uint8

_CPU = torch.device("cpu")
WANTED = "a PNG, JPEG, GIF, MP4, or NPZ with uint8 frames [T,H,W,3]"


def read_start(stage: Stage, *, image: Path | None, extend: Path | None) -> Tensor | None:
    """What every clip starts from, or None if no file is named.

    Args:
        stage: the one whose network makes the clips.
        image: its first frame is animated.
        extend: all of its frames are kept, and gone on from.

    Returns:
        [1, 3, T, H, W], pixels in [-1, 1], at the size of the stage's clips.

    Raises:
        UserError: if the network takes no frames, both are named, or one cannot be read.
    """
    if image is not None and extend is not None:
        raise UserError(f"--image {image} and --extend {extend}: wanted one of them")
    option, file = ("--image", image) if image is not None else ("--extend", extend)
    if file is None:
        return None
    _check_takes_frames(stage, field=f"{option} {file}")
    frames_THW3 = read_frames(file, field=f"{option} {file}")
    return fitted(
        frames_THW3[:1] if image is not None else frames_THW3, size=stage.training.clip.size
    )


def seen_frames(length: int, *, frames: int, time_factor: int) -> int:
    """How many of a clip's last frames the network goes on from: about half of what it makes."""
    most = min(length, (frames + 1) // 2)
    return (most - 1) // time_factor * time_factor + 1


def fitted(frames_THW3: NDArray[np.uint8], *, size: Size) -> Tensor:
    """The middle of every frame at a size's aspect, resized; as ``read_start`` returns it."""
    x_13THW = as_pixels([{"frames": frames_THW3}], frames=None, device=_CPU)
    height, width = x_13THW.shape[-2:]
    scale = min(height / size[0], width / size[1])
    part = [max(1, round(side * scale)) for side in size]
    top, left = (height - part[0]) // 2, (width - part[1]) // 2
    x_T3HW = x_13THW[0].transpose(0, 1)[..., top : top + part[0], left : left + part[1]]
    if tuple(part) != tuple(size):
        x_T3HW = F.interpolate(x_T3HW, size=size, mode="bicubic", antialias=True).clamp(-1.0, 1.0)
    # As whole numbers, so that what is written is what the network has seen.
    frames_THW3 = to_uint8(x_T3HW.transpose(0, 1)[None])[0]
    return as_pixels([{"frames": frames_THW3}], frames=None, device=_CPU)


def _check_takes_frames(stage: Stage, *, field: str) -> None:
    train = stage.training
    where = f"stages.{stage.id}.train"
    if not isinstance(train.model, DiTConfig) or not train.model.condition_frames:
        raise UserError(
            f"{field}: {where}.model takes no frames, wanted a video_dit with "
            "condition_frames: true"
        )
    if not train.condition_share:
        raise UserError(
            f"{field}: seen {where}.condition_share=0, wanted a network trained with it"
        )


def read_frames(file: Path, *, field: str) -> NDArray[np.uint8]:
    """The frames of a file, uint8 [T, H, W, 3].

    Raises:
        UserError: if it is not there or holds none.
    """
    kind = file.suffix.lower().removeprefix(".")
    try:
        if kind in ("npz", "mp4"):
            frames = decode({kind: file.read_bytes()}).get("frames")
        else:
            frames = _pictures(file)
    except FileNotFoundError as error:
        raise UserError(f"{field}: {error.strerror}") from None
    except (OSError, ValueError, PIL.Image.DecompressionBombError):
        raise UserError(f"{field}: cannot be read, wanted {WANTED}") from None
    if (
        not isinstance(frames, np.ndarray)
        or frames.dtype != np.uint8
        or frames.ndim != 4
        or frames.shape[-1] != 3
        or 0 in frames.shape
    ):
        raise UserError(f"{field}: holds no such frames, wanted {WANTED}")
    return frames


def _pictures(file: Path) -> NDArray[np.uint8]:
    with PIL.Image.open(file) as opened:
        return np.stack(
            [
                np.asarray(PIL.ImageOps.exif_transpose(one).convert("RGB"))
                for one in PIL.ImageSequence.Iterator(opened)
            ]
        )

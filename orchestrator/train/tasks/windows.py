"""Which frames of each stored clip a training step sees, and those frames as pixels.

Shape letters: B clips, T frames, H W height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.make_a_video.fps import draw_fps
from orchestrator.data.packing import Image
from orchestrator.recipe.train import Train
from orchestrator.train.tasks.base import Micro
from orchestrator.train.transfer import stacked_on_device
from orchestrator.train.views import FRAMES, PICTURE, frame_numbers, possible_fps


@dataclass(frozen=True)
class Window:
    """Numbers of the stored frames that a slot sees, and their rate."""

    frames: NDArray[np.int64]
    fps: float


def draw_windows(micro: Micro, *, train: Train) -> list[Window]:
    """One per slot: at the stage's rate, or at one drawn from its range; anywhere in the clip."""
    clips = len(micro.samples)
    wanted = [train.clip.fps] * clips
    if train.fps_range is not None:
        uniform_B = micro.random.uniform()
        progress = min(micro.step / train.steps, 1.0)
        wanted = draw_fps(uniform_B, progress=progress, config=train.fps_range).tolist()
    places = micro.random.uniform().tolist()
    return [
        _window(len(sample[FRAMES]), stored_fps, fps=fps, place=place, frames=train.clip.frames)
        for sample, stored_fps, fps, place in zip(
            micro.samples, micro.fps, wanted, places, strict=True
        )
    ]


def pixels(micro: Micro, windows: Sequence[Window], *, name: str, device: torch.device) -> Tensor:
    """Frames of every slot in one of the view's sizes, [B, 3, T, H, W], float32 in [-1, 1]."""
    clips = [
        _packed(images, window, name=name) if images else sample[name][window.frames]
        for sample, images, window in zip(micro.samples, micro.packed, windows, strict=True)
    ]
    x_BTHW3 = stacked_on_device(clips, device=device)
    return x_BTHW3.permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1.0).contiguous()


def pictures(
    micro: Micro, windows: Sequence[Window], *, device: torch.device, name: str = PICTURE
) -> Tensor:
    """The first frame of every window as a pair of encoders sees it, [B, 3, H, W]."""
    firsts = [
        sample[name][window.frames[0]]
        for sample, window in zip(micro.samples, windows, strict=True)
    ]
    x_BHW3 = stacked_on_device(firsts, device=device)
    return x_BHW3.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0).contiguous()


def _window(stored: int, stored_fps: float, *, fps: float, place: float, frames: int) -> Window:
    fps = possible_fps(fps, stored=stored, stored_fps=stored_fps, frames=frames)
    numbers = frame_numbers(place, stored=stored, stored_fps=stored_fps, frames=frames, fps=fps)
    return Window(frames=numbers, fps=fps)


def _packed(images: Sequence[Image], window: Window, *, name: str) -> NDArray[np.uint8]:
    """Frame t of the slot is frame t of the t-th image's clip, or the image itself."""
    frames = [image.sample[name] for image in images]
    return np.stack(
        [one[number % len(one)] for one, number in zip(frames, window.frames, strict=True)]
    )

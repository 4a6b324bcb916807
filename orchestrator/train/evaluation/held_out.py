"""Held-out clips as a stage would see them in training.

Shape letters: B clips, T frames, H W height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.text.states import EMPTY_CAPTION
from orchestrator.data.index import Index
from orchestrator.data.reader import Reader
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.train.views import PICTURE, frame_numbers, possible_fps, view_of


@dataclass(frozen=True)
class HeldOut:
    """Clips [B, 3, T, H, W] in [-1, 1] by the names of the stage's view, and their captions.

    Attributes:
        pixels: all frames of the window, but of pictures the first one alone.
        captions: the first wording of each clip; the empty one where it has none.
    """

    pixels: dict[str, Tensor]
    captions: list[str]


def read_held_out(recipe: Recipe, stage: Stage, *, count: int) -> HeldOut:
    """The first clips of the evaluation source, each from its first frame on.

    Args:
        recipe: the run's.
        stage: whose sizes, frames and rate are wanted; it has a view.
        count: clips, or all that there are.
    """
    index, data, view = Index.open(recipe.data.eval.uri), recipe.data, view_of(recipe, stage)
    assert view is not None
    reader = Reader(
        index, cache_dir=data.cache_dir, cache_bytes=data.cache_bytes, memory_bytes=0, view=view
    )
    clip = stage.training.clip
    arrays: dict[str, list[np.ndarray]] = {name: [] for name in view.sizes}
    captions: list[str] = []
    for row in range(min(count, len(index))):
        sample, frames = reader.read(row)
        stored = sample.bucket[0]
        fps = possible_fps(clip.fps, stored=stored, stored_fps=sample.fps, frames=clip.frames)
        numbers = frame_numbers(
            0.0, stored=stored, stored_fps=sample.fps, frames=clip.frames, fps=fps
        )
        for name, kept in arrays.items():
            kept.append(frames[name][numbers[:1] if name == PICTURE else numbers])
        captions.append(sample.captions[0] if sample.captions else EMPTY_CAPTION)
    return HeldOut(
        pixels={name: _as_tensor(kept) for name, kept in arrays.items()}, captions=captions
    )


def _as_tensor(clips: Sequence[np.ndarray]) -> Tensor:
    x_BTHW3 = torch.from_numpy(np.stack(clips))
    return x_BTHW3.permute(0, 4, 1, 2, 3).float().div_(127.5).sub_(1.0).contiguous()

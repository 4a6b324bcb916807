"""A network's conditions for twice the clips, or for some of them.

Everything is per clip here: captions and image embeddings are those of clips, not of frames.

Shape letters: B clips.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from models.nn.unet_inputs import UNetInputs
from models.text.states import TextStates


def doubled(inputs: UNetInputs) -> UNetInputs:
    """The same conditions twice over, [2B, ...]."""
    return _each(inputs, lambda x: torch.cat([x, x]))


def part_of(inputs: UNetInputs, part: slice) -> UNetInputs:
    """The conditions of some clips."""
    return _each(inputs, lambda x: x[part])


def _each(inputs: UNetInputs, change: Callable[[Tensor], Tensor]) -> UNetInputs:
    def changed(x: Tensor | None) -> Tensor | None:
        return None if x is None else change(x)

    text = inputs.text
    return UNetInputs(
        text=None
        if text is None
        else TextStates(
            tokens_BLD=change(text.tokens_BLD),
            mask_BL=change(text.mask_BL),
            pooled_BD=change(text.pooled_BD),
        ),
        image_embedding_GE=changed(inputs.image_embedding_GE),
        fps_B=changed(inputs.fps_B),
        augmentation_B=changed(inputs.augmentation_B),
        low_resolution_BCTHW=changed(inputs.low_resolution_BCTHW),
        given_BCTHW=changed(inputs.given_BCTHW),
    )

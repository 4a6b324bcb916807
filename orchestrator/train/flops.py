"""FLOPs of a module's forward pass, counted by torch on the meta device."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models.nn.unet import SpaceTimeUNet
from models.nn.unet_config import RGB, UNetConfig
from models.nn.unet_inputs import UNetInputs
from models.text.states import TextStates


def forward_flops(build: Callable[[], nn.Module], *shapes: tuple[int, ...]) -> float:
    """FLOPs of one forward pass (multiply and add counted apart).

    Args:
        build: makes the module; called with the meta device as default, so nothing is allocated.
        shapes: shapes of the float tensors that the module takes.
    """
    with torch.device("meta"):
        module = build()
        inputs: list[Tensor] = [torch.empty(shape) for shape in shapes]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return float(counter.get_total_flops())


def unet_flops(
    config: UNetConfig, *, clip: tuple[int, int, int], text_width: int | None, text_tokens: int = 16
) -> float:
    """FLOPs of one clip's forward pass through a space-time U-Net, counted by torch on meta.

    Args:
        config: the network.
        clip: frames, height, width.
        text_width: of the text encoder's states, for a network that reads text.
        text_tokens: of the caption.
    """
    with torch.device("meta"):
        unet = SpaceTimeUNet(config, text_width=text_width).requires_grad_(False)
        x_B3THW = torch.empty(1, RGB, *clip)
        inputs = meta_inputs(config, clip=clip, text_width=text_width, text_tokens=text_tokens)
        t_B = torch.empty(1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        unet(x_B3THW, t_B, inputs)
    return float(counter.get_total_flops())


def meta_inputs(
    config: UNetConfig, *, clip: tuple[int, int, int], text_width: int | None, text_tokens: int
) -> UNetInputs:
    """All that a network reads for one clip, on the meta device and without values."""
    with torch.device("meta"):
        text = None
        if text_width is not None:
            text = TextStates(
                tokens_BLD=torch.empty(1, text_tokens, text_width),
                mask_BL=torch.empty(1, text_tokens, dtype=torch.bool),
                pooled_BD=torch.empty(1, text_width),
            )
        return UNetInputs(
            text=text,
            image_embedding_GE=(
                None if config.image_embedding is None else torch.empty(1, config.image_embedding)
            ),
            fps_B=torch.empty(1) if config.fps else None,
            augmentation_B=torch.empty(1) if config.augmentation else None,
            low_resolution_BCTHW=torch.empty(1, RGB, *clip) if config.low_resolution else None,
            given_BCTHW=torch.empty(1, RGB + 1, *clip) if config.given_frames else None,
        )

"""What a space-time U-Net reads beside the noisy clip and its time.

Shape letters:
  B clips   C channels   T frames   H W height and width   E width of an image embedding
  G captions or image embeddings: one per clip (B) or one per frame (B * T, clip by clip)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.nn.unet_config import RGB, UNetConfig
from models.text.states import TextStates

Shape = tuple[int, ...]


@dataclass(frozen=True)
class UNetInputs:
    """Exactly what the network's configuration reads has to be given; ``video_B`` and
    ``dropout_B`` are free."""

    text: TextStates | None = None  # of G captions
    image_embedding_GE: Tensor | None = None
    fps_B: Tensor | None = None  # frames per second, above 0
    augmentation_B: Tensor | None = None  # noise level of the low-resolution clip, in [0, 1]
    low_resolution_BCTHW: Tensor | None = None  # [B, 3, T, H, W], upsampled to the output's size
    given_BCTHW: Tensor | None = None  # [B, 4, T, H, W]: see given_channels
    # bool, False: the frames of this clip are images that have nothing to do with each other.
    # None: all clips are videos.
    video_B: Tensor | None = None
    # int64 from 0: what decides which values a clip's dropout sets to zero. In training only.
    dropout_B: Tensor | None = None


@dataclass(frozen=True)
class _Rule:
    name: str
    option: str  # the configuration's name for it
    value: Tensor | None
    shapes: tuple[Shape, ...]  # any of these; none: not read


def check_inputs(
    inputs: UNetInputs, *, x_BCTHW: Tensor, t_B: Tensor, config: UNetConfig, text_width: int | None
) -> None:
    """Raises ValueError, in one line, if anything is missing, too much or of another shape."""
    batch, channels, frames, height, width = x_BCTHW.shape
    if channels != RGB:
        raise ValueError(f"x has {channels} channels, wanted {RGB}")
    if height % config.stride or width % config.stride:
        raise ValueError(f"size={[height, width]}, wanted multiples of {config.stride}")
    _check_shape("t_B", t_B, ((batch,),))
    clip = (frames, height, width)
    text = None if inputs.text is None else inputs.text.tokens_BLD[:, 0]
    for rule in (
        _Rule("text", "text", text, _captions(batch, frames, text_width)),
        _Rule(
            "image_embedding_GE",
            "image_embedding",
            inputs.image_embedding_GE,
            _captions(batch, frames, config.image_embedding),
        ),
        _Rule("fps_B", "fps", inputs.fps_B, ((batch,),) * config.fps),
        _Rule(
            "augmentation_B",
            "augmentation",
            inputs.augmentation_B,
            ((batch,),) * config.augmentation,
        ),
        _Rule(
            "low_resolution_BCTHW",
            "low_resolution",
            inputs.low_resolution_BCTHW,
            ((batch, RGB, *clip),) * config.low_resolution,
        ),
        _Rule(
            "given_BCTHW",
            "given_frames",
            inputs.given_BCTHW,
            ((batch, RGB + 1, *clip),) * config.given_frames,
        ),
    ):
        _check_rule(rule)
    if inputs.dropout_B is not None:
        _check_shape("dropout_B", inputs.dropout_B, ((batch,),))
    if inputs.video_B is not None:
        _check_shape("video_B", inputs.video_B, ((batch,),))
        if inputs.video_B.dtype != torch.bool:
            raise ValueError(f"video_B is {inputs.video_B.dtype}, wanted torch.bool")


def _captions(batch: int, frames: int, width: int | None) -> tuple[Shape, ...]:
    return () if width is None else ((batch, width), (batch * frames, width))


def _check_rule(rule: _Rule) -> None:
    if rule.value is None:
        if rule.shapes:
            raise ValueError(f"{rule.name}=None, wanted it: the network reads {rule.option}")
    elif not rule.shapes:
        raise ValueError(f"{rule.name} is given, wanted None: the network reads no {rule.option}")
    else:
        _check_shape(rule.name, rule.value, rule.shapes)


def _check_shape(name: str, value: Tensor, shapes: tuple[Shape, ...]) -> None:
    if tuple(value.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{name} has shape {list(value.shape)}, wanted {wanted}")

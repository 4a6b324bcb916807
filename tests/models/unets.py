"""Small space-time U-Nets and inputs for their tests."""

from typing import Any

import torch
from torch import Tensor, nn

from models.nn.unet import SpaceTimeUNet, UNetInputs
from models.nn.unet_config import UNetConfig
from models.text.states import TextStates

TEXT_WIDTH, IMAGE_WIDTH = 12, 6

_READS_ALL: dict[str, Any] = {
    "groups": 4,
    "head_width": 8,
    "text": True,
    "image_embedding": IMAGE_WIDTH,
    "fps": True,
    "low_resolution": True,
    "augmentation": True,
    "given_frames": True,
    "temporal_conv": True,
}
ADM = UNetConfig(
    layout="adm",
    width=16,
    mults=(1, 2),
    blocks=1,
    attention=(1,),
    context_attention=(1,),
    temporal_attention=(0, 1),
    learned_variance=True,
    **_READS_ALL,
)
EFFICIENT = UNetConfig(
    layout="efficient",
    width=16,
    mults=(1, 2),
    blocks=(1, 2),
    attention=(1,),
    context_attention=(0, 1),
    temporal_attention=(1,),
    time_position="rotary",
    skip_scale=True,
    **_READS_ALL,
)
LAYOUTS = {"adm": ADM, "efficient": EFFICIENT}


def image_config(config: UNetConfig) -> UNetConfig:
    """The network before it learns of videos: no layer over time, no fps, no given frames."""
    fields = config.model_dump()
    without = {"temporal_conv": False, "temporal_attention": (), "time_position": "relative"}
    return UNetConfig(**fields | without | {"fps": False, "given_frames": False})


def plain(config: UNetConfig, **fields: Any) -> UNetConfig:
    """The same layers, but reading nothing beside the clip and its time."""
    reads = ("text", "fps", "low_resolution", "augmentation", "given_frames", "learned_variance")
    without = {**dict.fromkeys(reads, False), "image_embedding": None, "context_attention": ()}
    return UNetConfig(**config.model_dump() | without | fields)


def fresh(config: UNetConfig) -> SpaceTimeUNet:
    """As training starts: the output is zero, nothing mixes frames."""
    torch.manual_seed(0)
    return SpaceTimeUNet(config, text_width=TEXT_WIDTH if config.text else None)


def stirred(config: UNetConfig, *, std: float = 0.2) -> SpaceTimeUNet:
    """As after some training: nothing is zero any more."""
    unet = fresh(config)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=std)
    return unet


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def clips(*, batch: int = 2, frames: int = 3, size: tuple[int, int] = (8, 8)) -> Tensor:
    """Noisy pixels [batch, 3, frames, *size]."""
    return random(batch, 3, frames, *size)


def times(batch: int = 2) -> Tensor:
    """Times spread over (0, 1)."""
    return torch.linspace(0.1, 0.9, batch)


def inputs_for(config: UNetConfig, x_BCTHW: Tensor, *, captions: int | None = None) -> UNetInputs:
    """Whatever the network reads; ``captions`` is one per clip if None."""
    batch, _, frames, height, width = x_BCTHW.shape
    captions = captions or batch
    given_BCTHW = random(batch, 4, frames, height, width, seed=1)
    given_BCTHW[:, 3] = 1.0
    given_BCTHW[:, :, max(frames // 2, 1) :] = 0.0
    inputs = UNetInputs(
        text=text_states(captions) if config.text else None,
        image_embedding_GE=random(captions, IMAGE_WIDTH) if config.image_embedding else None,
        fps_B=torch.linspace(1.0, 24.0, batch) if config.fps else None,
        augmentation_B=torch.linspace(0.2, 0.7, batch) if config.augmentation else None,
        low_resolution_BCTHW=random(*x_BCTHW.shape, seed=2) if config.low_resolution else None,
        given_BCTHW=given_BCTHW if config.given_frames else None,
    )
    return to(inputs, x_BCTHW.dtype)


def text_states(captions: int, *, tokens: int = 5) -> TextStates:
    """Caption i has its last i (modulo 3) tokens masked."""
    lengths = tokens - torch.arange(captions) % 3
    return TextStates(
        tokens_BLD=random(captions, tokens, TEXT_WIDTH, seed=3),
        mask_BL=torch.arange(tokens)[None, :] < lengths[:, None],
        pooled_BD=torch.zeros(captions, TEXT_WIDTH),
    )


def to(inputs: UNetInputs, dtype: torch.dtype) -> UNetInputs:
    """Pixels in another precision; the rest stays, as the network casts it."""
    low, given = inputs.low_resolution_BCTHW, inputs.given_BCTHW
    return replace(
        inputs,
        low_resolution_BCTHW=None if low is None else low.to(dtype),
        given_BCTHW=None if given is None else given.to(dtype),
    )


def replace(inputs: UNetInputs, **fields: Any) -> UNetInputs:
    """The same with other values for some fields."""
    return UNetInputs(**vars(inputs) | fields)


def part(inputs: UNetInputs, index: slice) -> UNetInputs:
    """The inputs of some clips, one caption each."""

    def cut(value: Tensor | TextStates | None) -> Tensor | TextStates | None:
        if isinstance(value, TextStates):
            return TextStates(**{name: one[index] for name, one in vars(value).items()})
        return None if value is None else value[index]

    return UNetInputs(**{name: cut(value) for name, value in vars(inputs).items()})

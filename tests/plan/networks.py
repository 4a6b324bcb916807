"""Small networks of every family, on the meta device or for real, and what they take."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from models.make_a_video.prior import Prior
from models.make_a_video.prior_config import PriorConfig
from models.nn.unet import SpaceTimeUNet
from models.nn.unet_config import UNetConfig
from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AdversarialConfig, AutoencoderConfig
from models.sora.discriminator import PatchDiscriminator3D
from models.sora.dit import Condition
from models.sora.dit_config import DiTConfig
from models.sora.model import TextToVideo
from models.text.byt5 import Byt5Encoder
from models.text.config import Byt5Config
from models.text.pair_config import SmallPairConfig
from models.text.pair_states import PairText
from models.text.small_pair import SmallPair
from models.text.states import TextStates, Tokens
from orchestrator.train.flops import meta_inputs

TEXT = Byt5Config(width=32, depth=2, stride=4)
AUTOENCODER = AutoencoderConfig(latent_channels=4, width=16, blocks=1)
CRITIC = AdversarialConfig(start_step=0, width=16)
CROSS = DiTConfig(width=96, heads=3, depth=2, condition_frames=True)
JOINT = DiTConfig(width=96, heads=3, depth=2, single_depth=2, text_fusion="joint")
DUAL = DiTConfig(width=96, heads=3, depth=2, text_fusion="joint")
PRIOR = PriorConfig(width=64, heads=2, depth=2, text_tokens=16)
PAIR = SmallPairConfig(embedding_width=16, width=16, stages=2, text=TEXT)
LATENTS = (4, 4, 16, 16)  # channels, frames, height, width
WORDS, WIDTH = 8, 24  # of a frozen encoder's states
CLIP = (9, 32, 32)
PIXELS = (4, 16, 16)


def _unet(**fields: Any) -> UNetConfig:
    small: dict[str, Any] = {
        "width": 64,
        "mults": (1, 2),
        "blocks": 2,
        "attention": (1,),
        "low_resolution": True,
    }
    return UNetConfig(**(small | fields))


UNETS = {
    "adm over time": _unet(
        layout="adm", temporal_conv=True, temporal_attention=(1,), fps=True, dropout=0.1
    ),
    "adm of images": _unet(
        layout="adm", image_embedding=32, context_attention=(1,), given_frames=True
    ),
    "efficient with text": _unet(
        layout="efficient", text=True, context_attention=(1,), augmentation=True
    ),
    "efficient, rotary": _unet(
        layout="efficient", temporal_attention=(0, 1), time_position="rotary"
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """How to build a network, and its inputs for one clip on the meta device."""

    build: Callable[[], nn.Module]
    inputs: tuple[object, ...]


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def states(length: int = WORDS, width: int = WIDTH) -> TextStates:
    return TextStates(
        tokens_BLD=empty(1, length, width),
        mask_BL=empty(1, length, dtype=torch.bool),
        pooled_BD=empty(1, width),
    )


def tokens(config: Byt5Config = TEXT) -> Tokens:
    length = config.max_length
    return Tokens(
        ids_BL=empty(1, length, dtype=torch.int64), mask_BL=empty(1, length, dtype=torch.bool)
    )


def dit_case(config: DiTConfig) -> Case:
    condition = Condition(latents_BCTHW=empty(1, *LATENTS), mask_B1THW=empty(1, 1, *LATENTS[1:]))
    return Case(
        lambda: TextToVideo(config, channels=LATENTS[0], text_width=WIDTH, text=None),
        (
            empty(1, *LATENTS),
            empty(1),
            states(),
            condition if config.condition_frames else None,
        ),
    )


def unet_case(config: UNetConfig) -> Case:
    width = WIDTH if config.text else None
    inputs = meta_inputs(config, clip=PIXELS, text_width=width, text_tokens=WORDS)
    if config.dropout:
        inputs = dataclasses.replace(inputs, dropout_B=empty(1, dtype=torch.int64))
    return Case(
        lambda: SpaceTimeUNet(config, text_width=width), (empty(1, 3, *PIXELS), empty(1), inputs)
    )


def autoencoder_case(config: AutoencoderConfig) -> Case:
    return Case(lambda: VideoAutoencoder(config), (empty(1, 3, *CLIP), empty(1, 4, 3, 4, 4)))


CASES: dict[str, Case] = {
    **{name: unet_case(config) for name, config in UNETS.items()},
    "autoencoder": autoencoder_case(AUTOENCODER),
    "discriminator": Case(lambda: PatchDiscriminator3D(CRITIC), (empty(2, 3, *CLIP),)),
    "cross": dit_case(CROSS),
    "joint": dit_case(JOINT),
    "dual": dit_case(DUAL),
    "with its own encoder": Case(
        lambda: TextToVideo(
            DUAL, channels=LATENTS[0], text_width=TEXT.width, text=Byt5Encoder(TEXT)
        ),
        (empty(1, *LATENTS), empty(1), tokens()),
    ),
    "prior": Case(
        lambda: Prior(PRIOR, embedding_width=16, text_width=WIDTH),
        (
            empty(1, 16),
            empty(1),
            PairText(states=states(PRIOR.text_tokens), embedding_BE=empty(1, 16)),
        ),
    ),
    "pair": Case(lambda: SmallPair(PAIR), (tokens(), empty(1, 3, 16, 16))),
}


def real(inputs: Any, *, clips: int = 1) -> Any:
    """The same with values, on the CPU, for more clips."""
    if isinstance(inputs, tuple):
        return tuple(real(one, clips=clips) for one in inputs)
    if isinstance(inputs, Tensor):
        shape = (len(inputs) * clips, *inputs.shape[1:])
        if inputs.dtype == torch.bool:
            return torch.ones(shape, dtype=torch.bool)
        if inputs.dtype == torch.int64:
            return torch.ones(shape, dtype=torch.int64)
        return 0.1 + 0.8 * torch.rand(shape, generator=torch.Generator().manual_seed(0))
    if dataclasses.is_dataclass(inputs) and not isinstance(inputs, type):
        names = [one.name for one in dataclasses.fields(inputs)]
        return type(inputs)(**{name: real(getattr(inputs, name), clips=clips) for name in names})
    return inputs

"""Every kind of network on the meta device: its weights, its FLOPs, what it keeps.

Each function counts one clip and remembers what it found: a student is its teacher's network.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from math import prod
from typing import TypeVar

import torch
from torch import nn

from models.cascade.model import CaptionedUNet
from models.config import RGB
from models.diffusion.config import DiffusionConfig, FlowConfig
from models.diffusion.objective import build_objective
from models.make_a_video.prior import Prior
from models.make_a_video.prior_config import PriorConfig
from models.nn.unet_config import UNetConfig
from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AdversarialConfig, AutoencoderConfig
from models.sora.discriminator import PatchDiscriminator3D
from models.sora.dit import Condition
from models.sora.dit_config import DiTConfig
from models.sora.model import TextToVideo
from models.text.byt5 import Byt5Encoder
from models.text.config import Byt5Config, TextConfig
from models.text.pair_config import SmallPairConfig
from models.text.pair_states import PairText
from models.text.small_pair import SmallPair
from models.text.states import TextStates, Tokens
from models.text.widths import text_width
from orchestrator.plan.facts import Activations, Network
from orchestrator.train.flops import meta_inputs, on_meta
from orchestrator.train.kept import Device, watch

Shape = tuple[int, int, int]  # frames, height, width
Count = TypeVar("Count", bound=Callable[..., Network])


def _remembered(count: Count) -> Count:
    """``functools.cache``, whose types do not see that frozen configurations have a hash."""
    return cache(count)  # pyright: ignore[reportReturnType]


def _counted(
    name: str,
    module: nn.Module,
    *inputs: object,
    blocks: Callable[[], list[nn.Module]],
    bf16: bool,
    device: Device,
) -> Network:
    if bf16:
        module.bfloat16()
    trained = tuple(one.numel() for one in module.parameters() if one.requires_grad)
    frozen = sum(one.numel() for one in module.parameters() if not one.requires_grad)
    found = watch(module, *inputs, blocks=blocks(), device=device)
    return Network(
        name=name,
        trained=trained,
        frozen=frozen,
        activations=Activations(whole=found.whole, between=found.between, block=found.block),
        forward=found.flops,
        recomputed=found.block_flops,
    )


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _tokens(config: Byt5Config) -> Tokens:
    length = config.max_length
    return Tokens(
        ids_BL=_empty(1, length, dtype=torch.int64), mask_BL=_empty(1, length, dtype=torch.bool)
    )


def _states(length: int, width: int) -> TextStates:
    return TextStates(
        tokens_BLD=_empty(1, length, width),
        mask_BL=_empty(1, length, dtype=torch.bool),
        pooled_BD=_empty(1, width),
    )


@_remembered
def autoencoder(config: AutoencoderConfig, *, clip: Shape, bf16: bool, device: Device) -> Network:
    """The autoencoder on clips of that many frames, height and width."""
    module = on_meta(lambda: VideoAutoencoder(config))
    noise = _empty(1, config.latent_channels, *module.latent_shape(*clip))
    return _counted(
        "autoencoder",
        module,
        _empty(1, RGB, *clip),
        noise,
        blocks=module.blocks,
        bf16=bf16,
        device=device,
    )


@_remembered
def critic(config: AdversarialConfig, *, clip: Shape, bf16: bool, device: Device) -> Network:
    """Of a clip and its reconstruction at once."""
    module = on_meta(lambda: PatchDiscriminator3D(config))
    clips = _empty(2, RGB, *clip)
    return _counted("discriminator", module, clips, blocks=list, bf16=bf16, device=device)


def with_critic(autoencoder: Network, *, critic: Network) -> tuple[Network, Network]:
    """The autoencoder's loss goes back through the critic of its reconstructions."""
    kept, scores = autoencoder.activations, critic.activations.whole // 2
    activations = Activations(
        whole=kept.whole + scores, between=kept.between + scores, block=kept.block
    )
    forward = autoencoder.forward + critic.forward / 2  # a critic scores two clips at once
    return replace(autoencoder, activations=activations, forward=forward), critic


@_remembered
def dit(
    config: DiTConfig,
    *,
    text: TextConfig,
    latents: tuple[int, ...],
    bf16: bool,
    device: Device,
) -> Network:
    """The transformer, with its text encoder if it trains one.

    Args:
        config: its shape.
        text: whose states it reads.
        latents: channels, frames, height, width.
        bf16: whether its weights are bf16; else float32.
        device: whose kernels are counted.
    """
    own = isinstance(text, Byt5Config)
    module = on_meta(
        lambda: TextToVideo(
            config,
            channels=latents[0],
            text_width=text_width(text),
            text=Byt5Encoder(text) if isinstance(text, Byt5Config) else None,
        )
    )
    words = _tokens(text) if own else _states(text.max_length, text_width(text))
    condition = Condition(latents_BCTHW=_empty(1, *latents), mask_B1THW=_empty(1, 1, *latents[1:]))
    found = _counted(
        "denoiser",
        module,
        _empty(1, *latents),
        _empty(1),
        words,
        condition if config.condition_frames else None,
        blocks=module.dit.blocks,
        bf16=bf16,
        device=device,
    )
    tokens = prod(latents[1:]) // prod(config.patch)
    # Of each block queries, keys, values and what they gathered; text is small beside them.
    return replace(found, exchanged=4 * len(module.dit.blocks()) * tokens * config.shape.width)


@_remembered
def unet(
    config: UNetConfig,
    *,
    objective: FlowConfig | DiffusionConfig,
    text: TextConfig,
    clip: Shape,
    bf16: bool,
    device: Device,
) -> Network:
    """A network of pixels, with its text encoder if it trains one; see ``dit``."""
    width = text_width(text) if config.text else None
    own = text if config.text and isinstance(text, Byt5Config) else None
    answer = build_objective(objective)  # its table of noise has values
    module = on_meta(
        lambda: CaptionedUNet(
            config,
            text_width=width,
            text=None if own is None else Byt5Encoder(own),
            objective=answer,
        )
    )
    inputs = meta_inputs(
        config,
        clip=clip,
        text_width=None if own is not None else width,
        text_tokens=text.max_length,
    )
    inputs = replace(inputs, dropout_B=_empty(1, dtype=torch.int64) if config.dropout else None)
    words = () if own is None else (_tokens(own), _empty(1, dtype=torch.int64))
    return _counted(
        "denoiser",
        module,
        _empty(1, RGB, *clip),
        _empty(1),
        inputs,
        *words,
        blocks=module.blocks,
        bf16=bf16,
        device=device,
    )


@_remembered
def prior(config: PriorConfig, *, widths: tuple[int, int], bf16: bool, device: Device) -> Network:
    """The prior between a pair whose text states and embeddings have these widths."""
    text, embedding = widths
    module = on_meta(lambda: Prior(config, embedding_width=embedding, text_width=text))
    states = _states(config.text_tokens, text)
    words = PairText(states=states, embedding_BE=_empty(1, embedding))
    return _counted(
        "prior",
        module,
        _empty(1, embedding),
        _empty(1),
        words,
        blocks=module.blocks,
        bf16=bf16,
        device=device,
    )


@_remembered
def pair(config: SmallPairConfig, *, size: tuple[int, int], bf16: bool, device: Device) -> Network:
    """Both encoders of a pair, on pictures of that height and width."""
    module = on_meta(lambda: SmallPair(config))
    words, picture = _tokens(config.text), _empty(1, RGB, *size)
    return _counted("pair", module, words, picture, blocks=module.blocks, bf16=bf16, device=device)

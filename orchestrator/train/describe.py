"""What every network of a recipe is, on the meta device: sizes, work and shapes."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from models.make_a_video.prior import Prior
from models.make_a_video.prior_config import PriorConfig
from models.nn.unet import SpaceTimeUNet
from models.nn.unet_config import UNetConfig
from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit import VideoDiT
from models.sora.dit_config import DiTConfig
from models.sora.flops import dit_flops
from models.text.byt5 import Byt5Encoder
from models.text.config import Byt5Config, TextConfig
from models.text.pair_config import PairConfig, SmallPairConfig
from models.text.small_pair import SmallPair
from models.text.widths import pair_widths, text_width
from orchestrator.recipe.chain import upsampling
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.train.flops import built_unet_flops, forward_flops, on_meta, prior_flops

TEXT_TOKENS = 64  # of a caption, for counting


@dataclass(frozen=True)
class StageFacts:
    """A training stage in numbers.

    Attributes:
        stage: its id.
        network: kind of network.
        takes: what it starts from: noise, or the smaller clip as TxHxW.
        makes: its clip as TxHxW, and frames per second; or what else.
        units: pixels, latent positions or tokens of one training clip (a crop where it crops).
        parameters: trained weights; a frozen text encoder or pair is not among them.
        flops: of a forward and a backward pass of one training clip, multiply and add apart;
            0 where they are not counted.
    """

    stage: str
    network: str
    takes: str
    makes: str
    units: int
    parameters: int
    flops: float


def describe(recipe: Recipe) -> list[StageFacts]:
    """One row per training stage, in the recipe's order.

    Raises:
        ValueError: if the width of a pretrained encoder is not known.
    """
    rows: dict[str, StageFacts] = {}
    for stage in recipe.stages:
        if stage.distill is not None:  # a student is its teacher's network
            rows[stage.id] = replace(rows[stage.distill.teacher], stage=stage.id)
        elif stage.train is not None:
            rows[stage.id] = _facts(recipe, stage)
    return list(rows.values())


def _facts(recipe: Recipe, stage: Stage) -> StageFacts:
    train = stage.training
    clip = train.clip
    takes, units, parameters, flops = _counted(recipe, stage)
    if train.model.kind in ("video_dit", "video_unet") and train.reads_captions:
        parameters += _trained_text(recipe.text)
    return StageFacts(
        stage=stage.id,
        network=train.model.kind,
        takes=takes,
        makes=f"{clip.frames}x{clip.size[0]}x{clip.size[1]} @ {clip.fps:g}",
        units=units,
        parameters=parameters,
        flops=3 * flops,
    )


def _counted(recipe: Recipe, stage: Stage) -> tuple[str, int, int, float]:
    train = stage.training
    frames, (height, width) = train.clip.frames, train.clip.size
    match train.model:
        case AutoencoderConfig():
            return "pixels", *_autoencoder(train.model, (frames, height, width))
        case DiTConfig():
            return "noise", *_dit(recipe, stage, train.model)
        case UNetConfig():
            size = train.crop or train.clip.size
            width_text = text_width(recipe.text) if train.model.text else None
            return _below(recipe, stage), *_unet(train.model, (frames, *size), width_text)
        case PriorConfig():
            return "caption, noise", *_prior(train.model, pair_widths(_pair_of(recipe, stage)))
        case SmallPairConfig():
            return "caption, picture", *_pair(train.model, train.clip.size)


def _pair_of(recipe: Recipe, stage: Stage) -> PairConfig:
    if stage.pair is None:
        assert recipe.pair is not None
        return recipe.pair
    pair = recipe.stage(stage.pair).training.model
    assert isinstance(pair, SmallPairConfig)
    return pair


def _below(recipe: Recipe, stage: Stage) -> str:
    if stage.upsamples is None:
        return "noise"
    below = recipe.stage(stage.upsamples)
    step = upsampling(stage, parent=below)
    frames = stage.training.clip.frames
    if step.kind != "space":
        frames = below.training.clip.frames
    return f"{frames}x{step.size[0]}x{step.size[1]}"


def _autoencoder(config: AutoencoderConfig, clip: tuple[int, int, int]) -> tuple[int, int, float]:
    autoencoder = on_meta(lambda: VideoAutoencoder(config))
    latent = autoencoder.latent_shape(*clip)
    x_B3THW = torch.empty(1, 3, *clip, device="meta")
    noise_BCTHW = torch.empty(1, config.latent_channels, *latent, device="meta")
    flops = forward_flops(autoencoder, x_B3THW, noise_BCTHW)
    return latent[0] * latent[1] * latent[2], _parameters(autoencoder), flops


def _dit(recipe: Recipe, stage: Stage, config: DiTConfig) -> tuple[int, int, float]:
    autoencoder = recipe.autoencoder_config(stage)
    clip, width = stage.training.clip, text_width(recipe.text)
    grid = (
        (clip.frames - 1) // autoencoder.time_factor + 1,
        clip.size[0] // autoencoder.space_factor,
        clip.size[1] // autoencoder.space_factor,
    )
    channels = autoencoder.latent_channels
    dit = on_meta(lambda: VideoDiT(config, channels=channels, text_width=width))
    tokens = 1
    for side, patch in zip(grid, config.patch, strict=True):
        tokens *= side // patch
    flops = dit_flops(
        config, channels=channels, grid=grid, text_tokens=TEXT_TOKENS, text_width=width
    )
    return tokens, _parameters(dit), flops


def _unet(
    config: UNetConfig, clip: tuple[int, int, int], width: int | None
) -> tuple[int, int, float]:
    unet = on_meta(lambda: SpaceTimeUNet(config, text_width=width))
    flops = built_unet_flops(unet, clip=clip, text_tokens=TEXT_TOKENS)
    return clip[0] * clip[1] * clip[2], _parameters(unet), flops


def _trained_text(config: TextConfig) -> int:
    """Weights of a text encoder that is trained along."""
    if not isinstance(config, Byt5Config):
        return 0
    return _parameters(on_meta(lambda: Byt5Encoder(config)))


def _prior(config: PriorConfig, widths: tuple[int, int]) -> tuple[int, int, float]:
    text, embedding = widths
    prior = on_meta(lambda: Prior(config, embedding_width=embedding, text_width=text))
    return config.text_tokens, _parameters(prior), prior_flops(prior)


def _pair(config: SmallPairConfig, size: tuple[int, int]) -> tuple[int, int, float]:
    pair = on_meta(lambda: SmallPair(config))
    flops = forward_flops(pair.image_encoder, torch.empty(1, 3, *size, device="meta"))
    return size[0] * size[1], _parameters(pair), flops


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

"""What every network of a recipe is, on the meta device: sizes, work and shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

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
from models.text.pair_config import SmallPairConfig
from models.text.small_pair import SmallPair
from models.text.states import Tokens
from models.text.widths import pair_widths, text_width
from orchestrator.recipe.chain import makes_clips, upsampling
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.train.flops import (
    built_unet_flops,
    forward_flops,
    on_meta,
    prior_flops,
    training_flops,
)
from orchestrator.train.frozen import pair_of

Shape = tuple[int, int, int]  # frames, height, width
TEXT_TOKENS = 64  # of a caption, for counting


@dataclass(frozen=True)
class StageFacts:
    """A stage in numbers; None where one has no meaning for it.

    Attributes:
        stage: its id.
        network: kind of network; or what is measured.
        takes: what it starts from: noise, or the smaller clip as TxHxW.
        makes: its clip as TxHxW, and frames per second; or what else.
        trains_on: TxHxW of one training clip, a crop where it crops.
        units: pixels, latent positions or tokens of that.
        parameters: weights of the networks that it trains or runs; a frozen text encoder or pair
            is not among them.
        training: FLOPs of training on one such clip: forward, backward and a teacher's answers,
            multiply and add apart.
        once: FLOPs of one forward pass over all that it makes, without guidance.
    """

    stage: str
    network: str
    takes: str
    makes: str
    trains_on: str | None = None
    units: int | None = None
    parameters: int | None = None
    training: float | None = None
    once: float | None = None


@dataclass(frozen=True)
class _Counts:
    """Units and forward FLOPs of a training clip, weights, forward FLOPs of what is made."""

    units: int
    parameters: int
    forward: float
    once: float


def describe(recipe: Recipe) -> list[StageFacts]:
    """One row per stage, in the recipe's order.

    Raises:
        ValueError: if the width of a pretrained encoder is not known.
    """
    rows: dict[str, StageFacts] = {}
    for stage in recipe.stages:
        if stage.train is not None:
            rows[stage.id] = _trained(recipe, stage)
        elif stage.encode is not None:
            rows[stage.id] = _encoded(recipe, stage)
        else:
            rows[stage.id] = _evaluated(recipe, stage, rows)
    return list(rows.values())


def _trained(recipe: Recipe, stage: Stage) -> StageFacts:
    train = stage.training
    clip, counts = train.clip, _counted(recipe, stage)
    parameters = counts.parameters
    if train.model.kind in ("video_dit", "video_unet") and train.reads_captions:
        parameters += _trained_text(recipe.text)
    makes = f"{_shape(frames_made(recipe, stage), *clip.size)} @ {clip.fps:g}"
    if isinstance(train.model, PriorConfig | SmallPairConfig):
        makes = "image embedding" if isinstance(train.model, PriorConfig) else "embeddings"
    return StageFacts(
        stage=stage.id,
        network=train.model.kind,
        takes=_taken(recipe, stage),
        makes=makes,
        trains_on=_shape(clip.frames, *(train.crop or clip.size)),
        units=counts.units,
        parameters=parameters,
        training=training_flops(counts.forward, is_student=stage.distill is not None),
        once=counts.once,
    )


def _encoded(recipe: Recipe, stage: Stage) -> StageFacts:
    assert stage.encode is not None
    train = recipe.stage(stage.encode.autoencoder).training
    clip = (train.clip.frames, *train.clip.size)
    counts = _encoder(train.autoencoder, clip)
    return StageFacts(
        stage=stage.id,
        network=train.model.kind,
        takes=_shape(*clip),
        makes=f"latents {_shape(*counts.latent)}",
        parameters=counts.parameters,
        once=counts.flops,
    )


def _evaluated(recipe: Recipe, stage: Stage, rows: Mapping[str, StageFacts]) -> StageFacts:
    spec = stage.evaluate
    assert spec is not None
    model = recipe.stage(spec.model)
    used = [model.id]
    if makes_clips(model):
        links = recipe.chain(spec.model, distilled=spec.distilled)
        if spec.metric == "upsamplers":
            links = tuple(link for link in links if link.upsamples is not None)
        used = [link.id for link in links]
        used += [link.prior for link in links if link.prior is not None]
    if model.latents is not None:
        used.append(recipe.autoencoder_of(model).id)
    weights = [rows[name].parameters for name in used if name in rows]
    return StageFacts(
        stage=stage.id,
        network=f"evaluate {spec.metric}",
        takes=f"{spec.prompts} {'prompts' if spec.metric == 'digits' else 'held-out clips'}",
        makes=rows[model.id].makes if makes_clips(model) else "scores",
        parameters=sum(one for one in weights if one is not None),
    )


def _taken(recipe: Recipe, stage: Stage) -> str:
    match stage.training.model:
        case AutoencoderConfig():
            return "pixels"
        case DiTConfig():
            return "noise"
        case UNetConfig():
            return _below(recipe, stage)
        case PriorConfig():
            return "caption, noise"
        case SmallPairConfig():
            return "caption, picture"


def _counted(recipe: Recipe, stage: Stage) -> _Counts:
    train = stage.training
    frames, size = train.clip.frames, train.clip.size
    match train.model:
        case AutoencoderConfig():
            return _autoencoder(train.model, (frames, *size))
        case DiTConfig():
            return _dit(recipe, stage, train.model)
        case UNetConfig():
            width = text_width(recipe.text) if train.model.text else None
            seen, made = (frames, *(train.crop or size)), (frames_made(recipe, stage), *size)
            # It is frozen and so has a hash, which pyright does not see.
            network: Any = train.model
            return _unet(network, seen=seen, made=made, width=width)
        case PriorConfig():
            return _prior(train.model, pair_widths(pair_of(recipe, stage)))
        case SmallPairConfig():
            return _pair(train.model, size)


def frames_made(recipe: Recipe, stage: Stage) -> int:
    """Frames that sampling makes: a network that enlarges frames takes clips of any length."""
    if stage.upsamples is None:
        return stage.training.clip.frames
    below = recipe.stage(stage.upsamples)
    if upsampling(stage, parent=below).kind == "space":
        return frames_made(recipe, below)
    return stage.training.clip.frames


def _below(recipe: Recipe, stage: Stage) -> str:
    if stage.upsamples is None:
        return "noise"
    below = recipe.stage(stage.upsamples)
    return _shape(frames_made(recipe, below), *below.training.clip.size)


def _shape(*sides: int) -> str:
    return "x".join(map(str, sides))


def _autoencoder(config: AutoencoderConfig, clip: Shape) -> _Counts:
    autoencoder = on_meta(lambda: VideoAutoencoder(config))
    latent = autoencoder.latent_shape(*clip)
    x_B3THW = torch.empty(1, 3, *clip, device="meta")
    noise_BCTHW = torch.empty(1, config.latent_channels, *latent, device="meta")
    flops = forward_flops(autoencoder, x_B3THW, noise_BCTHW)
    return _Counts(prod(latent), _parameters(autoencoder), flops, flops)


@dataclass(frozen=True)
class _Encoder:
    latent: Shape
    parameters: int
    flops: float


def _encoder(config: AutoencoderConfig, clip: Shape) -> _Encoder:
    autoencoder = on_meta(lambda: VideoAutoencoder(config))
    flops = forward_flops(autoencoder.encode, torch.empty(1, 3, *clip, device="meta"))
    return _Encoder(autoencoder.latent_shape(*clip), _parameters(autoencoder.encoder), flops)


def _dit(recipe: Recipe, stage: Stage, config: DiTConfig) -> _Counts:
    autoencoder = recipe.autoencoder_config(stage)
    clip, width = stage.training.clip, text_width(recipe.text)
    grid = (
        (clip.frames - 1) // autoencoder.time_factor + 1,
        clip.size[0] // autoencoder.space_factor,
        clip.size[1] // autoencoder.space_factor,
    )
    channels = autoencoder.latent_channels
    dit = on_meta(lambda: VideoDiT(config, channels=channels, text_width=width))
    flops = dit_flops(
        config, channels=channels, grid=grid, text_tokens=TEXT_TOKENS, text_width=width
    )
    return _Counts(prod(grid) // prod(config.patch), _parameters(dit), flops, flops)


@cache  # students are their teachers' networks
def _unet(config: UNetConfig, *, seen: Shape, made: Shape, width: int | None) -> _Counts:
    unet = on_meta(lambda: SpaceTimeUNet(config, text_width=width))
    forward = built_unet_flops(unet, clip=seen, text_tokens=TEXT_TOKENS)
    once = forward
    if made != seen:
        # A network of images takes the frames of a longer clip one by one.
        window = (1 if seen[0] == 1 else made[0], *made[1:])
        once = made[0] // window[0] * built_unet_flops(unet, clip=window, text_tokens=TEXT_TOKENS)
    return _Counts(prod(seen), _parameters(unet), forward, once)


def _trained_text(config: TextConfig) -> int:
    """Weights of a text encoder that is trained along."""
    if not isinstance(config, Byt5Config):
        return 0
    return _parameters(on_meta(lambda: Byt5Encoder(config)))


def _prior(config: PriorConfig, widths: tuple[int, int]) -> _Counts:
    text, embedding = widths
    prior = on_meta(lambda: Prior(config, embedding_width=embedding, text_width=text))
    flops = prior_flops(prior)
    return _Counts(config.text_tokens, _parameters(prior), flops, flops)


def _pair(config: SmallPairConfig, size: tuple[int, int]) -> _Counts:
    pair = on_meta(lambda: SmallPair(config))
    letters = config.text.max_length
    tokens = Tokens(
        ids_BL=torch.empty(1, letters, dtype=torch.int64, device="meta"),
        mask_BL=torch.empty(1, letters, dtype=torch.bool, device="meta"),
    )
    flops = forward_flops(pair.image_encoder, torch.empty(1, 3, *size, device="meta"))
    flops += forward_flops(pair.text, tokens)
    return _Counts(size[0] * size[1], _parameters(pair), flops, flops)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

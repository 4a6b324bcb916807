"""Small links of a cascade for their tests."""

from typing import Any

import torch

from models.cascade.link import Link, Request, Step
from models.cascade.model import CaptionedUNet
from models.diffusion.config import DiffusionConfig, SamplerConfig
from models.diffusion.objective import build_objective
from models.nn.unet_config import UNetConfig
from models.text.config import Byt5Config
from models.text.encoder import build_text_encoder
from tests.models.unets import ADM, EFFICIENT, IMAGE_WIDTH, TEXT_WIDTH, plain, random, stirred

__all__ = ["ENLARGING", "IMAGE_WIDTH", "STARTING", "below", "link", "request"]

STARTING = plain(EFFICIENT)
ENLARGING = plain(EFFICIENT, low_resolution=True, augmentation=True)
IMAGES = plain(ADM, low_resolution=True, augmentation=True, attention=())
BYT5 = Byt5Config(width=TEXT_WIDTH, depth=1, heads=2, stride=4)
V = DiffusionConfig(kind="v")


def link(
    config: UNetConfig,
    step: Step,
    *,
    frames: int,
    side: int,
    factor: int = 1,
    level: float = 0.1,
    **sampler: Any,
) -> Link:
    """A link whose network does something with all that it reads."""
    torch.manual_seed(0)
    text = build_text_encoder(BYT5) if config.text else None
    model = CaptionedUNet(
        config,
        text_width=TEXT_WIDTH if config.text else None,
        text=text,
        objective=build_objective(V),
    )
    weights = stirred(config, std=0.1).state_dict()
    model.unet.load_state_dict(weights)
    fields: dict[str, Any] = {"kind": "ddim", "steps": 3, "threshold": "static", **sampler}
    return Link(
        model=model.eval().requires_grad_(False),
        text=None,
        objective=build_objective(V),
        sampler=SamplerConfig(**fields),
        frames=frames,
        size=(side, side),
        fps=8.0,
        step=step,
        factor=factor,
        level=level,
    )


def request(clips: int = 2, *, first_seed: int = 0, **fields: Any) -> Request:
    """Prompts of different lengths, a seed each."""
    prompts = ["a red three moving left", "nine", "a blue one going up"][:clips]
    seeds = range(first_seed, first_seed + clips)
    return Request(
        prompts=prompts,
        generators=[torch.Generator().manual_seed(seed) for seed in seeds],
        **fields,
    )


def below(clips: int = 2, *, frames: int, side: int) -> torch.Tensor:
    """Clips of the link before."""
    return random(clips, 3, frames, side, side, seed=9).tanh()

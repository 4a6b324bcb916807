"""Configurations: published sizes on the meta device, and what does not fit."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from models.nn.unet import SpaceTimeUNet
from models.nn.unet_config import UNetConfig


def millions(config: UNetConfig, *, text_width: int | None = None) -> float:
    with torch.device("meta"):
        unet = SpaceTimeUNet(config, text_width=text_width)
    assert all(parameter.is_meta for parameter in unet.parameters())
    return sum(parameter.numel() for parameter in unet.parameters()) / 1e6


# Dhariwal & Nichol 2021, arXiv:2105.05233, tables 11 and 12: millions of weights. Theirs have
# thousand labels as wide as the conditioning, ours qk-norms and a few sinusoids more.
@pytest.mark.parametrize(
    ("published", "fields"),
    [
        (296, {"width": 192, "mults": (1, 2, 3, 4), "blocks": 3, "attention": (1, 2, 3)}),
        (554, {"width": 256, "mults": (1, 1, 2, 2, 4, 4), "blocks": 2, "attention": (3, 4, 5)}),
    ],
)
def test_adm_has_the_published_size(published: float, fields: dict[str, Any]) -> None:
    config = UNetConfig(layout="adm", learned_variance=True, **fields)
    labels = 1000 * config.embed_width / 1e6
    assert millions(config) + labels == pytest.approx(published, rel=0.005)


# Ramesh et al. 2022 (DALL-E 2), arXiv:2204.06125, appendix C, table 3: upsamplers without
# attention, printed as 700M and 300M.
@pytest.mark.parametrize(
    ("published", "fields"),
    [
        (700, {"width": 320, "mults": (1, 2, 3, 4), "blocks": 3}),
        (300, {"width": 192, "mults": (1, 1, 2, 2, 4, 4), "blocks": 2}),
    ],
)
def test_upsamplers_of_dalle_2_have_about_the_published_size(
    published: float, fields: dict[str, Any]
) -> None:
    config = UNetConfig(layout="adm", low_resolution=True, learned_variance=True, **fields)
    assert millions(config) == pytest.approx(published, rel=0.1)


FITS: dict[str, Any] = {"width": 64, "mults": (1, 2), "blocks": 1}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"mults": ()}, "at least 1 item"),
        ({"blocks": (1, 2, 3)}, r"blocks=\[1, 2, 3\], wanted one number or 2"),
        ({"attention": (2,)}, r"attention=\[2\], wanted levels from 0 to 1, each once"),
        ({"temporal_attention": (1, 1)}, r"temporal_attention=\[1, 1\], wanted levels from 0 to 1"),
        ({"context_attention": (5,), "text": True}, r"context_attention=\[5\], wanted levels"),
        ({"width": 48}, "groups=32, wanted a divisor of 48 channels"),
        ({"attention": (0,), "head_width": 40}, "head_width=40, wanted a divisor of 64 channels"),
        (
            {"attention": (0,), "head_width": 1, "time_position": "rotary"},
            "head_width=1 with time_position=rotary, wanted an even number",
        ),
        ({"text": True}, r"text=true with context_attention=\[\], wanted at least one level"),
        ({"context_attention": (1,)}, r"context_attention=\[1\], wanted text=true or an image_emb"),
        ({"augmentation": True}, "augmentation=true belongs to low_resolution=true"),
        ({"time_position": "rotary"}, r"time_position=rotary with temporal_attention=\[\], wanted"),
        ({"dropout": 1.0}, "less than 1"),
        (
            {"temporal_conv": True, "temporal_kernel": 4},
            "temporal_kernel=4, wanted an odd number",
        ),
        ({"temporal_kernel": 5}, "temporal_kernel=5 belongs to temporal_conv=true"),
        ({"max_distance": 15}, "max_distance=15 belongs to time_position=relative with"),
        (
            {"max_distance": 15, "temporal_attention": (1,), "time_position": "rotary"},
            "max_distance=15 belongs to time_position=relative with temporal_attention",
        ),
    ],
)
def test_configurations_that_do_not_fit_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        UNetConfig(**FITS | fields)


def test_constants_of_time_reach_every_layer() -> None:
    temporal = {"temporal_conv": True, "temporal_attention": (0, 1)}
    config = UNetConfig(**FITS, **temporal, temporal_kernel=5, max_distance=7)
    with torch.device("meta"):
        weights = SpaceTimeUNet(config).state_dict()
    kernels = {tuple(one.shape[2:]) for name, one in weights.items() if "time.conv.weight" in name}
    biases = {one.shape[1] for name, one in weights.items() if "relative.bias" in name}
    assert kernels == {(5, 1)}
    assert biases == {2 * 7 + 1}


def test_derived_sizes() -> None:
    adm = UNetConfig(**FITS)
    efficient = UNetConfig(**FITS | {"layout": "efficient", "blocks": (2, 4)})
    assert (adm.widths, adm.depths, adm.stride, adm.out_channels) == ((64, 128), (1, 1), 2, 3)
    assert (efficient.depths, efficient.stride) == ((2, 4), 4)

"""Counting by functions against torch's own counter, and modules without memory."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.nn.unet import SpaceTimeUNet
from models.nn.unet_config import UNetConfig
from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AutoencoderConfig
from models.text.config import Byt5Config
from models.text.pair_config import SmallPairConfig
from models.text.small_pair import SmallPair
from orchestrator.train.flops import built_unet_flops, forward_flops, meta_inputs, on_meta

SMALL: dict[str, Any] = {
    "width": 64,
    "mults": (1, 2),
    "blocks": 2,
    "attention": (1,),
    "low_resolution": True,
}
CLIP = (4, 16, 16)
CLOSE = 0.01  # the same products, but for those in norms


def counted_by_torch(module: nn.Module, *inputs: object) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(*inputs)
    return float(counter.get_total_flops())


@pytest.mark.parametrize(
    "fields",
    [
        {"layout": "adm", "temporal_conv": True, "temporal_attention": (1,), "fps": True},
        {"layout": "adm", "image_embedding": 32, "context_attention": (1,), "given_frames": True},
        {"layout": "efficient", "text": True, "context_attention": (1,), "augmentation": True},
        {"layout": "efficient", "temporal_attention": (0, 1), "time_position": "rotary"},
    ],
)
def test_a_unet_is_counted_as_torch_counts_it(fields: dict[str, Any]) -> None:
    config = UNetConfig(**SMALL | fields)
    width = 24 if config.text else None
    unet = on_meta(lambda: SpaceTimeUNet(config, text_width=width)).requires_grad_(False)
    inputs = meta_inputs(config, clip=CLIP, text_width=width, text_tokens=8)
    x_B3THW, t_B = torch.empty(1, 3, *CLIP, device="meta"), torch.empty(1, device="meta")
    wanted = counted_by_torch(unet, x_B3THW, t_B, inputs)
    assert built_unet_flops(unet, clip=CLIP, text_tokens=8) == pytest.approx(wanted, rel=CLOSE)


def test_an_autoencoder_is_counted_as_torch_counts_it() -> None:
    config = AutoencoderConfig(latent_channels=4, width=16, blocks=1)
    autoencoder = on_meta(lambda: VideoAutoencoder(config))
    x_B3THW = torch.empty(1, 3, 9, 32, 32, device="meta")
    noise_BCTHW = torch.empty(1, 4, *autoencoder.latent_shape(9, 32, 32), device="meta")
    wanted = counted_by_torch(autoencoder, x_B3THW, noise_BCTHW)
    assert forward_flops(autoencoder, x_B3THW, noise_BCTHW) == pytest.approx(wanted, rel=CLOSE)


def test_an_image_encoder_is_counted_as_torch_counts_it() -> None:
    text = Byt5Config(width=16, depth=1, heads=2, stride=4)
    config = SmallPairConfig(embedding_width=8, width=8, stages=2, text=text)
    encoder = on_meta(lambda: SmallPair(config).image_encoder)
    x_B3HW = torch.empty(1, 3, 16, 16, device="meta")
    wanted = counted_by_torch(encoder, x_B3HW)
    assert forward_flops(encoder, x_B3HW) == pytest.approx(wanted, rel=CLOSE)


def test_a_module_on_meta_takes_no_memory_and_no_initial_values() -> None:
    config = UNetConfig(**SMALL)
    before = torch.get_rng_state()
    unet = on_meta(lambda: SpaceTimeUNet(config))
    assert all(one.is_meta for one in (*unet.parameters(), *unet.buffers()))
    assert torch.equal(torch.get_rng_state(), before)
    wanted = {name: weight.shape for name, weight in SpaceTimeUNet(config).state_dict().items()}
    assert {name: weight.shape for name, weight in unet.state_dict().items()} == wanted

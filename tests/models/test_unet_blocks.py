"""The U-Net's layers: the formula of a residual block, skips, recomputed and compiled."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.nn.rope import rope_table
from models.nn.unet import SpaceTimeUNet
from models.nn.unet_blocks import Conditions, Layer, ResidualBlock, SpatialAttention
from models.nn.unet_config import UNetConfig
from tests.models.unets import (
    ADM,
    EFFICIENT,
    LAYOUTS,
    clips,
    inputs_for,
    random,
    replace,
    stirred,
    times,
)

every_layout = pytest.mark.parametrize("config", LAYOUTS.values(), ids=LAYOUTS)
CONFIG = UNetConfig(width=8, mults=(1,), blocks=1, groups=2, head_width=4, attention=(0,))


def conditions(*, count: int = 2) -> Conditions:
    return Conditions(
        cond_ND=random(count, CONFIG.embed_width, seed=4).double(),
        context_GLD=None,
        mask_G11L=None,
        rope_2TR=None,
        video_B111=None,
        frames=1,
    )


def shaken(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.4, generator=generator)
    return layer.double()


def group_norm(x_CHW: Tensor, norm: nn.GroupNorm) -> Tensor:
    out = torch.empty_like(x_CHW)
    size = len(x_CHW) // norm.num_groups
    for first in range(0, len(x_CHW), size):
        group = x_CHW[first : first + size]
        deviation = ((group - group.mean()).square().mean() + norm.eps).sqrt()
        out[first : first + size] = (group - group.mean()) / deviation
    return out * norm.weight[:, None, None] + norm.bias[:, None, None]


def swish(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def conv(x_CHW: Tensor, layer: nn.Conv2d) -> Tensor:
    """By shifted sums over the kernel."""
    reach = layer.weight.shape[-1] // 2
    padded = nn.functional.pad(x_CHW, (reach,) * 4)
    _, height, width = x_CHW.shape
    assert layer.bias is not None
    out = layer.bias[:, None, None].expand(-1, height, width)
    for row in range(2 * reach + 1):
        for column in range(2 * reach + 1):
            seen = padded[:, row : row + height, column : column + width]
            out = out + torch.einsum("dc,chw->dhw", layer.weight[:, :, row, column], seen)
    return out


def resampled(x_CHW: Tensor, how: str | None) -> Tensor:
    if how == "down":
        return x_CHW.unflatten(1, (-1, 2)).unflatten(3, (-1, 2)).mean(dim=(2, 4))
    if how == "up":
        return x_CHW.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    return x_CHW


@torch.no_grad()
@pytest.mark.parametrize(("out_channels", "resample"), [(12, None), (8, "down"), (8, "up")])
def test_residual_block_is_the_formula(out_channels: int, resample: str | None) -> None:
    plain = ResidualBlock(8, out_channels, config=CONFIG, resample=resample)  # pyright: ignore
    block = shaken(plain)
    assert isinstance(block, ResidualBlock)
    x_NCHW, given = random(2, 8, 4, 6).double(), conditions()
    found = block(x_NCHW, given)
    for x_CHW, cond_D, out_CHW in zip(x_NCHW, given.cond_ND, found, strict=True):
        h_CHW = resampled(swish(group_norm(x_CHW, block.norm_in)), resample)
        h_CHW = conv(h_CHW, block.conv_in.space)
        both = block.modulation.weight @ cond_D + block.modulation.bias
        scale, shift = both[:out_channels, None, None], both[out_channels:, None, None]
        h_CHW = swish(group_norm(h_CHW, block.norm_out) * (1 + scale) + shift)
        h_CHW = conv(h_CHW, block.conv_out.space)
        short_CHW = resampled(x_CHW, resample)
        if block.shortcut is not None:
            short_CHW = block.shortcut(short_CHW.movedim(0, -1)).movedim(-1, 0)
        # Float64, some hundred products a number.
        torch.testing.assert_close(out_CHW, short_CHW + h_CHW, rtol=0, atol=1e-11)


@torch.no_grad()
def test_spatial_attention_is_the_formula() -> None:
    layer = shaken(SpatialAttention(8, config=CONFIG))
    assert isinstance(layer, SpatialAttention)
    x_NCHW = random(2, 8, 2, 3).double()
    found = layer(x_NCHW)
    norms = layer.project.norm
    for x_CHW, out_CHW in zip(x_NCHW, found, strict=True):
        h_PC = group_norm(x_CHW, layer.norm).flatten(1).T
        qkv = h_PC @ layer.project.qkv.weight.T + layer.project.qkv.bias
        heads: list[Tensor] = []
        for part in (slice(4), slice(4, 8)):
            q, k, v = (one[:, part] for one in qkv.split(8, dim=1))
            q = q / (q.square().mean(dim=1, keepdim=True) + 1e-6).sqrt() * norms.query.weight
            k = k / (k.square().mean(dim=1, keepdim=True) + 1e-6).sqrt() * norms.key.weight
            heads.append((q @ k.T / 2.0).softmax(dim=1) @ v)
        update_PC = torch.cat(heads, dim=1) @ layer.out.weight.T + layer.out.bias
        expected = x_CHW + update_PC.T.unflatten(1, (2, 3))
        torch.testing.assert_close(out_CHW, expected, rtol=0, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("skip_scale", [False, True])
def test_skip_is_joined_after_the_input_and_scaled_if_asked(skip_scale: bool) -> None:
    config = CONFIG.model_copy(update={"skip_scale": skip_scale})
    layer = shaken(Layer(8, 8, config=config, level=None, skip_channels=4))
    assert isinstance(layer, Layer)
    x_NCHW, skip_NCHW = random(2, 8, 4, 4).double(), random(2, 4, 4, 4, seed=1).double()
    scale = 2**-0.5 if skip_scale else 1.0
    expected = layer.residual(torch.cat([x_NCHW, scale * skip_NCHW], dim=1), conditions())
    assert torch.equal(layer(x_NCHW, conditions(), skip_NCHW), expected)


@torch.no_grad()
def test_fresh_layer_is_the_identity() -> None:
    torch.manual_seed(0)
    layer = Layer(8, 8, config=CONFIG, level=0).double()
    x_NCHW = random(2, 8, 4, 4).double()
    assert torch.equal(layer(x_NCHW, conditions()), x_NCHW)


def gradients(unet: SpaceTimeUNet, *, frames: int) -> dict[str, Tensor]:
    x_BCTHW = clips(frames=frames)
    inputs = replace(inputs_for(unet.config, x_BCTHW), dropout_B=torch.tensor([3, 4]))
    unet(x_BCTHW, times(), inputs).square().mean().backward()
    return {name: w.grad for name, w in unet.named_parameters() if w.grad is not None}


@every_layout
@pytest.mark.parametrize("frames", [1, 3])
def test_recomputed_blocks_give_the_same_bits(config: UNetConfig, frames: int) -> None:
    config = config.model_copy(update={"dropout": 0.2})
    found: list[dict[str, Tensor]] = []
    for recompute in (False, True):
        unet = stirred(config)
        for block in unet.blocks() if recompute else []:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        found.append(gradients(unet, frames=frames))
    assert found[0].keys() == found[1].keys() == dict(unet.named_parameters()).keys()
    assert [name for name in found[0] if not torch.equal(found[0][name], found[1][name])] == []


def traceable(config: UNetConfig, *, frames: int) -> tuple[Layer, Conditions]:
    """A layer with every kind of attention, and what it reads in a batch of one video clip."""
    torch.manual_seed(0)
    layer = Layer(16, 32, config=config, level=1, skip_channels=16)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.2)
    rope_2TR = None
    if config.time_position == "rotary":
        rope_2TR = rope_table((3, 1, 1), axes=(8, 0, 0), theta=1e4, device=torch.device("cpu"))
    return layer, Conditions(
        cond_ND=random(6, config.embed_width),
        context_GLD=random(2, 5, config.embed_width),
        mask_G11L=torch.ones(2, 1, 1, 5, dtype=torch.bool),
        rope_2TR=rope_2TR if frames > 1 else None,
        video_B111=torch.tensor([1.0, 0.0]).view(-1, 1, 1, 1) if frames > 1 else None,
        frames=frames,
    )


# The tracer looks at the .grad of what it is given, and torch warns of that.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("config", "frames", "backend"),
    [(ADM, 1, "aot_eager"), (ADM, 3, "eager"), (EFFICIENT, 3, "eager")],
)
def test_layer_traces_into_one_graph_with_the_same_gradients(
    config: UNetConfig, frames: int, backend: str
) -> None:
    found: list[dict[str, Tensor]] = []
    for trace in (False, True):
        layer, given = traceable(config, frames=frames)
        if trace:
            layer.compile(fullgraph=True, backend=backend)
        x_NCHW, skip_NCHW = random(6, 16, 4, 4), random(6, 16, 4, 4, seed=1)
        layer(x_NCHW, given, skip_NCHW).square().mean().backward()
        found.append({name: w.grad for name, w in layer.named_parameters() if w.grad is not None})
    assert found[0].keys() == found[1].keys() == dict(layer.named_parameters()).keys()
    # The traced graph calls the same kernels; only fused sums of gradients may differ.
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("config", [ADM, EFFICIENT], ids=LAYOUTS)
def test_activations_are_channels_last(config: UNetConfig) -> None:
    """Else views between frames, clips and tokens would be copies."""
    unet, x_BCTHW = stirred(config), clips()
    for block in unet.blocks():
        block.register_forward_hook(_assert_channels_last)
    unet(x_BCTHW, times(), inputs_for(config, x_BCTHW))


def _assert_channels_last(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
    for x_NCHW in (args[0], out):
        assert x_NCHW.is_contiguous(memory_format=torch.channels_last)

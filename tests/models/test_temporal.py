"""Layers over time against loops in float64, fresh, without videos, and moved in time."""

import math
from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from models.nn import temporal
from models.nn.rope import rope_table
from models.nn.temporal import PseudoConv, RelativePosition, TemporalAttention, TemporalConv

CHANNELS, HEADS, HEAD = 12, 2, 6
FRAMES, HEIGHT, WIDTH = 5, 2, 3
MAX_DISTANCE = 32
Position = Literal["relative", "rotary"]
every_position = pytest.mark.parametrize("position", ["relative", "rotary"])


def frames(*, clips: int = 2, count: int = FRAMES, seed: int = 0) -> Tensor:
    """Channels_last frames [clips * count, C, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(clips * count, CHANNELS, HEIGHT, WIDTH, generator=generator)
    return x.contiguous(memory_format=torch.channels_last)


def stirred(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(7)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.4, generator=generator)
    return layer


def attention(position: Position) -> TemporalAttention:
    torch.manual_seed(0)
    most = MAX_DISTANCE if position == "relative" else None
    return TemporalAttention(width=CHANNELS, heads=HEADS, max_distance=most)


def table(position: Position, *, count: int = FRAMES) -> Tensor | None:
    if position == "relative":
        return None
    return rope_table((count, 1, 1), axes=(HEAD, 0, 0), theta=1e4, device=torch.device("cpu"))


def conv_by_loops(layer: TemporalConv, x_NCHW: Tensor) -> Tensor:
    """x[t] + b + sum over k of W[k] x[t + k - K // 2], at every position by itself."""
    weight, bias = layer.conv.weight, layer.conv.bias
    assert bias is not None
    out = x_NCHW.clone()
    for n in range(len(x_NCHW)):
        first = n - n % FRAMES
        kernel = weight.shape[2]
        for k in range(kernel):
            other = n + k - kernel // 2
            if first <= other < first + FRAMES:
                out[n] += torch.einsum("dc,chw->dhw", weight[:, :, k, 0], x_NCHW[other])
        out[n] += bias[:, None, None]
    return out


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_temporal_convolution_is_the_loop(kernel: int) -> None:
    layer = stirred(TemporalConv(CHANNELS, kernel=kernel)).double()
    assert isinstance(layer, TemporalConv)
    x_NCHW = frames().double()
    found = layer(x_NCHW, frames=FRAMES, video_B111=None)
    # Float64, some forty products a number.
    torch.testing.assert_close(found, conv_by_loops(layer, x_NCHW), rtol=0, atol=1e-12)


def attention_by_loops(layer: TemporalAttention, x_NCHW: Tensor) -> Tensor:
    """Position by position and head by head, from the definition."""

    def rms(v: Tensor, weight: Tensor) -> Tensor:
        return v / (v.square().mean() + 1e-6).sqrt() * weight

    def turned(v: Tensor, place: int) -> Tensor:
        half = HEAD // 2
        out = v.clone()
        for i in range(half):
            angle = place * 1e4 ** (-2 * i / HEAD)
            out[i] = v[i] * math.cos(angle) - v[i + half] * math.sin(angle)
            out[i + half] = v[i + half] * math.cos(angle) + v[i] * math.sin(angle)
        return out

    project, out = layer.project, x_NCHW.clone()
    for first in range(0, len(x_NCHW), FRAMES):
        for row in range(HEIGHT):
            for column in range(WIDTH):
                seen = x_NCHW[first : first + FRAMES, :, row, column]
                centred = seen - seen.mean(dim=1, keepdim=True)
                scale = (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()
                h = centred / scale * layer.norm.weight + layer.norm.bias
                qkv = h @ project.qkv.weight.T + project.qkv.bias
                gathered = torch.zeros_like(h)
                for head in range(HEADS):
                    part = slice(head * HEAD, (head + 1) * HEAD)
                    q, k, v = (one[:, part] for one in qkv.split(CHANNELS, dim=1))
                    for t in range(FRAMES):
                        logits = torch.zeros(FRAMES, dtype=torch.float64)
                        for s in range(FRAMES):
                            query = rms(q[t], project.norm.query.weight)
                            key = rms(k[s], project.norm.key.weight)
                            if layer.relative is None:
                                query, key = turned(query, t), turned(key, s)
                            logits[s] = query @ key / HEAD**0.5
                            if layer.relative is not None:
                                logits[s] += layer.relative.bias[head, s - t + MAX_DISTANCE]
                        weights = logits.exp() / logits.exp().sum()
                        gathered[t, part] = weights @ v
                update = gathered @ layer.out.weight.T + layer.out.bias
                out[first : first + FRAMES, :, row, column] += update
    return out


@torch.no_grad()
@every_position
def test_temporal_attention_is_the_loop(position: Position) -> None:
    layer = stirred(attention(position)).double()
    assert isinstance(layer, TemporalAttention)
    x_NCHW = frames().double()
    found = layer(x_NCHW, frames=FRAMES, video_B111=None, rope_2TR=table(position))
    # The table of angles is float32.
    atol = 1e-12 if position == "relative" else 1e-5
    torch.testing.assert_close(found, attention_by_loops(layer, x_NCHW), rtol=0, atol=atol)


@pytest.mark.parametrize("most", [2, MAX_DISTANCE])
def test_far_frames_share_a_bias(most: int) -> None:
    relative = RelativePosition(HEADS, max_distance=most)
    nn.init.normal_(relative.bias)
    bias_ATT = relative(most + 4)
    assert torch.equal(bias_ATT[:, 0, most:], bias_ATT[:, :1, most].expand(-1, 4))
    assert torch.equal(bias_ATT[:, most:, 0], bias_ATT[:, most, :1].expand(-1, 4))
    assert not torch.equal(bias_ATT[:, 0, 1], bias_ATT[:, 1, 0])  # before and after differ
    assert not torch.equal(bias_ATT[:, 0, most], bias_ATT[:, 0, most - 1])


def test_every_distance_of_a_clip_as_long_gets_a_gradient() -> None:
    relative = RelativePosition(HEADS, max_distance=FRAMES - 1)
    nn.init.normal_(relative.bias)
    relative(FRAMES).square().sum().backward()
    assert relative.bias.grad is not None
    assert bool(relative.bias.grad.all())


def run(layer: TemporalAttention, x_NCHW: Tensor, *, position: Position) -> Tensor:
    count = len(x_NCHW)
    rope = table(position, count=count)
    return layer(x_NCHW, frames=count, video_B111=None, rope_2TR=rope)


@torch.no_grad()
def test_relative_attention_moves_with_the_clip() -> None:
    layer = stirred(attention("relative")).double()
    assert isinstance(layer, TemporalAttention)
    assert layer.relative is not None
    near = layer.relative.bias[:, MAX_DISTANCE - 2 : MAX_DISTANCE + 3].clone()
    layer.relative.bias.fill_(-1e9)  # nothing farther than two frames away is seen
    layer.relative.bias[:, MAX_DISTANCE - 2 : MAX_DISTANCE + 3] = near
    x_NCHW = frames(clips=1, count=12).double()
    early, late = (run(layer, x_NCHW[cut], position="relative") for cut in (slice(9), slice(3, 12)))
    # Two frames from either end, a frame sees the same in both cuts.
    torch.testing.assert_close(early[5:7], late[2:4], rtol=0, atol=1e-12)


@torch.no_grad()
def test_rotary_attention_moves_with_the_clip() -> None:
    layer = stirred(attention("rotary")).double()
    assert isinstance(layer, TemporalAttention)
    # An empty frame then has key and value zero wherever it stands.
    layer.norm.bias.zero_()
    layer.project.qkv.bias.zero_()
    seen = frames(clips=1, count=4).double()
    outs: list[Tensor] = []
    for start in (0, 3):
        x_NCHW = torch.zeros(9, *seen.shape[1:], dtype=torch.float64)
        x_NCHW[start : start + 4] = seen
        outs.append(run(layer, x_NCHW, position="rotary")[start : start + 4])
    # The table of angles is float32.
    torch.testing.assert_close(outs[0], outs[1], rtol=0, atol=1e-5)


@torch.no_grad()
@every_position
def test_attention_in_parts_is_attention(
    position: Position, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = stirred(attention(position)).double()
    assert isinstance(layer, TemporalAttention)
    x_NCHW = frames(clips=1).double()
    whole = run(layer, x_NCHW, position=position)
    monkeypatch.setattr(temporal, "MAX_SEQUENCES", 4)  # of six
    torch.testing.assert_close(run(layer, x_NCHW, position=position), whole, rtol=0, atol=1e-12)


@torch.no_grad()
@every_position
def test_order_of_the_frames_counts(position: Position) -> None:
    layer = stirred(attention(position))
    assert isinstance(layer, TemporalAttention)
    x_NCHW = frames(clips=1)
    turned = run(layer, x_NCHW.flip(0), position=position).flip(0)
    assert not torch.allclose(turned, run(layer, x_NCHW, position=position), atol=1e-2)


@every_position
def test_fresh_layers_are_the_identity(position: Position) -> None:
    x_NCHW = frames()
    found = attention(position)(x_NCHW, frames=FRAMES, video_B111=None, rope_2TR=table(position))
    assert torch.equal(found, x_NCHW)
    assert torch.equal(
        TemporalConv(CHANNELS, kernel=3)(x_NCHW, frames=FRAMES, video_B111=None), x_NCHW
    )


@every_position
@pytest.mark.parametrize("kind", ["conv", "attention"])
def test_images_pass_unchanged_beside_videos(kind: str, position: Position) -> None:
    x_NCHW = frames(clips=3)
    video_B111 = torch.tensor([1.0, 0.0, 1.0]).view(-1, 1, 1, 1)
    if kind == "conv":
        conv = stirred(TemporalConv(CHANNELS, kernel=3))
        mixed = conv(x_NCHW, frames=FRAMES, video_B111=video_B111)
        alone = conv(x_NCHW, frames=FRAMES, video_B111=None)
    else:
        layer, rope = stirred(attention(position)), table(position)
        mixed = layer(x_NCHW, frames=FRAMES, video_B111=video_B111, rope_2TR=rope)
        alone = layer(x_NCHW, frames=FRAMES, video_B111=None, rope_2TR=rope)
    image = slice(FRAMES, 2 * FRAMES)
    assert torch.equal(mixed[image], x_NCHW[image])
    for video in (slice(FRAMES), slice(2 * FRAMES, None)):
        # One float32 sum, rounded once or twice.
        torch.testing.assert_close(mixed[video], alone[video], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(alone[image], x_NCHW[image], atol=1e-2)


@every_position
def test_without_videos_every_gradient_is_zero(position: Position) -> None:
    conv, layer = stirred(TemporalConv(CHANNELS, kernel=3)), stirred(attention(position))
    x_NCHW = frames().requires_grad_()
    out = conv(x_NCHW, frames=1, video_B111=None)
    out = layer(out, frames=1, video_B111=None, rope_2TR=None)
    assert torch.equal(out, x_NCHW)
    out.square().sum().backward()
    for weight in [*conv.parameters(), *layer.parameters()]:
        assert weight.grad is not None
        assert not bool(weight.grad.any())
    assert x_NCHW.grad is not None
    assert torch.equal(x_NCHW.grad, 2 * x_NCHW)


def test_weights_that_are_not_finite_leave_images_alone() -> None:
    conv = TemporalConv(CHANNELS, kernel=3)
    nn.init.constant_(conv.conv.weight, math.nan)
    x_NCHW = frames().requires_grad_()
    out = conv(x_NCHW, frames=1, video_B111=None)
    out.sum().backward()
    assert torch.equal(out, x_NCHW)
    assert conv.conv.weight.grad is not None
    assert not bool(conv.conv.weight.grad.any())


@torch.no_grad()
@every_position
def test_memory_layout_changes_no_number_and_is_channels_last_after(position: Position) -> None:
    conv, layer = stirred(PseudoConv(CHANNELS, CHANNELS, kernel=3)), attention(position)
    stirred(layer)
    last = frames()
    outs: list[Tensor] = []
    for x_NCHW in (last, last.contiguous()):
        h_NCHW = conv(x_NCHW, frames=FRAMES, video_B111=None)
        outs.append(layer(h_NCHW, frames=FRAMES, video_B111=None, rope_2TR=table(position)))
    # Other kernels, other order of float32 sums.
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-5, atol=1e-5)
    assert outs[0].is_contiguous(memory_format=torch.channels_last)


def test_pseudo_convolution_is_space_then_time() -> None:
    conv = stirred(PseudoConv(CHANNELS, 8, kernel=3, stride=2)).double()
    assert isinstance(conv, PseudoConv)
    assert conv.time is not None
    x_NCHW = frames().double()
    h_NCHW = nn.functional.conv2d(x_NCHW, conv.space.weight, conv.space.bias, stride=2, padding=1)
    expected = conv_by_loops(conv.time, h_NCHW)
    found = conv(x_NCHW, frames=FRAMES, video_B111=None)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)

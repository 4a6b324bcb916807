"""Attention against softmax(q k / sqrt(K)) v, written out in float64."""

import math

import pytest
import torch
from torch import Tensor

from models.nn.attention import (
    CrossAttention,
    SelfAttention,
    attend,
    attend_jointly,
    split_heads,
)
from models.nn.rope import rope_table

HEADS, WIDTH = 3, 24


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@torch.no_grad()
def attend_by_formula(q: Tensor, k: Tensor, v: Tensor, mask_BM: Tensor) -> Tensor:
    """One clip, one head, one query at a time."""
    batch, heads, queries, head_width = q.shape
    out = torch.zeros(batch, queries, heads, head_width, dtype=torch.float64)
    for b in range(batch):
        seen = [m for m in range(k.shape[2]) if mask_BM[b, m]]
        for h in range(heads):
            for n in range(queries):
                logits = [float(q[b, h, n] @ k[b, h, m]) / math.sqrt(head_width) for m in seen]
                top = max(logits)
                weights = [math.exp(logit - top) for logit in logits]
                for weight, m in zip(weights, seen, strict=True):
                    out[b, n, h] += weight / sum(weights) * v[b, h, m]
    return out.flatten(2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_attention_is_the_formula(dtype: torch.dtype) -> None:
    q, k, v = random(2, HEADS, 5, 8), random(2, HEADS, 7, 8), random(2, HEADS, 7, 8) + 1
    mask_BM = torch.tensor([[True] * 7, [True, False, True, True, False, True, False]])
    actual = attend(q.to(dtype), k.to(dtype), v.to(dtype), mask_BM[:, None, None, :])
    expected = attend_by_formula(q.double(), k.double(), v.double(), mask_BM)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5  # rounding of the dtype itself
    torch.testing.assert_close(actual.double(), expected, rtol=0, atol=tolerance)


def test_joint_attention_is_one_attention_over_both() -> None:
    video = tuple(random(2, HEADS, 5, 8 + i)[..., :8].double() for i in range(3))
    text = tuple(random(2, HEADS, 4, 8 + i)[..., :8].double() for i in range(3))
    mask_BM = torch.tensor([[True] * 9, [True] * 6 + [False] * 3])
    q, k, v = (torch.cat(pair, dim=2) for pair in zip(video, text, strict=True))
    expected = attend_by_formula(q, k, v, mask_BM)
    out_video, out_text = attend_jointly(video, text, mask_BM[:, None, None, :])
    torch.testing.assert_close(out_video, expected[:, :5], rtol=0, atol=1e-12)
    torch.testing.assert_close(out_text, expected[:, 5:], rtol=0, atol=1e-12)


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + 1e-6) * weight


def test_self_attention_normalises_turns_and_attends() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(width=WIDTH, heads=HEADS).double()
    norm = layer.project.norm
    torch.nn.init.normal_(norm.query.weight)
    torch.nn.init.normal_(norm.key.weight)
    x_BND = random(2, 6, WIDTH).double()
    table = rope_table((1, 2, 3), axes=(2, 2, 4), theta=100.0, device=x_BND.device)
    q, k, v = (split_heads(part, HEADS) for part in layer.project.qkv(x_BND).chunk(3, dim=-1))
    turn = torch.complex(table[0], table[1]).to(torch.complex128)

    def turned(x: Tensor) -> Tensor:
        pairs = torch.complex(*x.chunk(2, dim=-1)) * turn
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    gathered = attend_by_formula(
        turned(rms(q, norm.query.weight)),
        turned(rms(k, norm.key.weight)),
        v,
        torch.ones(2, 6, dtype=torch.bool),
    )
    # The cosines are float32, whatever the dtype of the tokens.
    torch.testing.assert_close(layer(x_BND, table), layer.out(gathered), rtol=0, atol=1e-6)


def test_cross_attention_reads_the_text() -> None:
    torch.manual_seed(0)
    layer = CrossAttention(width=WIDTH, heads=HEADS).double()
    x_BND, text_BLD = random(2, 6, WIDTH).double(), random(2, 4, WIDTH).double()
    mask_BL = torch.tensor([[True, True, True, False], [True, False, False, False]])
    q = split_heads(layer.query(x_BND), HEADS)
    k, v = (split_heads(part, HEADS) for part in layer.key_value(text_BLD).chunk(2, dim=-1))
    ones = torch.ones(WIDTH // HEADS, dtype=torch.float64)
    gathered = attend_by_formula(rms(q, ones), rms(k, ones), v, mask_BL)
    actual = layer(x_BND, text_BLD, mask_BL[:, None, None, :])
    torch.testing.assert_close(actual, layer.out(gathered), rtol=0, atol=1e-12)


@torch.no_grad()
def test_qk_norm_bounds_the_logits() -> None:
    torch.manual_seed(0)
    project = SelfAttention(width=WIDTH, heads=HEADS).project
    q_BHNK, k_BHNK, _ = project(1e4 * random(2, 6, WIDTH))
    logits = q_BHNK @ k_BHNK.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
    assert float(logits.abs().max()) <= math.sqrt(WIDTH // HEADS) * (1 + 1e-5)

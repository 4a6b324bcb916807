"""The blocks one by one: identity when fresh, the formula, compiled and checkpointed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.nn.rope import rope_table
from models.sora.dit_blocks import CrossBlock, DualBlock, LastDualBlock, SingleBlock
from models.sora.dit_config import DiTConfig
from tests.models.dits import FUSIONS, fresh, latents, stirred, text_states, times

WIDTH, HEADS, TOKENS, WORDS = 32, 2, 12, 5
every_fusion = pytest.mark.parametrize("config", FUSIONS.values(), ids=FUSIONS)


def inputs(block: nn.Module, *, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    """Positional arguments of a block's forward."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    x_BND, text_BLD, cond_BD = draw(2, TOKENS, WIDTH), draw(2, WORDS, WIDTH), draw(2, WIDTH)
    mask_BL = torch.tensor([[True] * 5, [True, True, True, False, False]])
    mask_BM = torch.cat([torch.ones(2, TOKENS, dtype=torch.bool), mask_BL], dim=1)
    grid, axes = (3, 2, 2), (4, 6, 6)
    rope = rope_table(grid, axes=axes, theta=1e4, device=x_BND.device)
    if isinstance(block, CrossBlock):
        return x_BND, cond_BD, text_BLD, mask_BL[:, None, None], rope
    if isinstance(block, SingleBlock):
        rope = rope_table(grid, axes=axes, theta=1e4, device=x_BND.device, unrotated=WORDS)
        return torch.cat([x_BND, text_BLD], dim=1), cond_BD, mask_BM[:, None, None], rope, WORDS
    return x_BND, text_BLD, cond_BD, mask_BM[:, None, None], rope


def outputs(block: Callable[..., object], args: tuple[Any, ...]) -> tuple[Tensor, ...]:
    out = block(*args)
    return out if isinstance(out, tuple) else (out,)  # pyright: ignore


@every_fusion
def test_fresh_block_is_the_identity(config: DiTConfig) -> None:
    dit = fresh(config)
    for block in dit.blocks():
        args = inputs(block)
        for given, returned in zip(args, outputs(block, args), strict=False):
            assert torch.equal(given, returned)


@every_fusion
def test_blocks_are_all_of_the_depth(config: DiTConfig) -> None:
    shape = config.shape
    assert len(fresh(config).blocks()) == shape.depth + shape.single_depth


def norm(x: Tensor) -> Tensor:
    return (x - x.mean(dim=-1, keepdim=True)) / (
        x.var(dim=-1, keepdim=True, correction=0) + 1e-6
    ).sqrt()


def test_cross_block_is_the_formula() -> None:
    torch.manual_seed(0)
    block = CrossBlock(width=WIDTH, heads=HEADS, mlp_ratio=4).double()
    x, cond, text, mask, rope = inputs(block, dtype=torch.float64)
    parts = block.modulation.linear(cond / (1 + (-cond).exp()))
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = parts[:, None].chunk(6, dim=-1)
    h = x + gate_a * block.attention(norm(x) * (1 + scale_a) + shift_a, rope)
    h = h + block.cross_attention(norm(h), text, mask)
    h = h + gate_m * block.mlp(norm(h) * (1 + scale_m) + shift_m)
    # Float64, a few hundred operations.
    torch.testing.assert_close(block(x, cond, text, mask, rope), h, rtol=0, atol=1e-12)


def test_single_block_is_the_formula() -> None:
    torch.manual_seed(0)
    block = SingleBlock(width=WIDTH, heads=HEADS, mlp_ratio=4).double()
    x, cond, mask, rope, words = inputs(block, dtype=torch.float64)
    parts = block.modulation.linear(cond * torch.sigmoid(cond))
    shift, scale, gate = parts[:, None].chunk(3, dim=-1)
    h = norm(x) * (1 + scale) + shift
    q, k, v = block.attention(h)
    turn = torch.complex(rope[0], rope[1]).to(torch.complex128)
    q, k = (torch.complex(*part.chunk(2, dim=-1)) * turn for part in (q, k))
    logits = (q @ k.conj().transpose(-1, -2)).real / (WIDTH // HEADS) ** 0.5
    weights = logits.masked_fill(~mask, float("-inf")).softmax(dim=-1)
    gathered = (weights @ v).transpose(1, 2).flatten(2)
    u = block.mlp_hidden(h)
    u = 0.5 * u * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (u + 0.044715 * u**3)))
    expected = x + gate * block.out(torch.cat([gathered, u], dim=-1))
    torch.testing.assert_close(block(x, cond, mask, rope, words), expected, rtol=0, atol=1e-12)


def test_streams_of_a_dual_block_have_their_own_weights() -> None:
    torch.manual_seed(0)
    block = DualBlock(width=WIDTH, heads=HEADS, mlp_ratio=4)
    x, text, cond, mask, rope = inputs(block)
    video, words = block(x, text, cond, mask, rope)
    nn.init.normal_(block.text.mlp.out.weight)
    other_video, other_words = block(x, text, cond, mask, rope)
    assert torch.equal(video, other_video)
    assert not torch.allclose(words, other_words, atol=1e-3)


def test_last_dual_block_is_a_dual_block_whose_text_is_dropped() -> None:
    torch.manual_seed(0)
    whole = DualBlock(width=WIDTH, heads=HEADS, mlp_ratio=4).double()
    last = LastDualBlock(width=WIDTH, heads=HEADS, mlp_ratio=4).double()
    last.video.load_state_dict(whole.video.state_dict())
    modulation, project = whole.text.modulation.linear, whole.text.project
    with torch.no_grad():
        last.text_modulation.linear.weight.copy_(modulation.weight[: 2 * WIDTH])
        last.text_modulation.linear.bias.copy_(modulation.bias[: 2 * WIDTH])
        last.text_key_value.weight.copy_(project.qkv.weight[WIDTH:])
        last.text_key_value.bias.copy_(project.qkv.bias[WIDTH:])
    args = inputs(whole, dtype=torch.float64)
    video, words = last(*args)
    torch.testing.assert_close(video, whole(*args)[0], rtol=0, atol=1e-12)
    assert words is args[1]


@every_fusion
def test_checkpointed_blocks_give_the_same_bits(config: DiTConfig) -> None:
    x_BCTHW = latents(2, 4, 4)
    gradients: list[dict[str, Tensor]] = []
    for recompute in (False, True):
        dit = stirred(config)
        for block in dit.blocks() if recompute else []:
            plain = block.forward
            block.forward = lambda *args, plain=plain: checkpoint(plain, *args, use_reentrant=False)
        loss = dit(x_BCTHW, times(), text_states()).square().mean()
        loss.backward()
        gradients.append({name: w.grad for name, w in dit.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def with_gradients(block: nn.Module, args: tuple[Any, ...]) -> list[Tensor]:
    """Outputs and the gradients of all weights and of the tokens."""
    args = tuple(
        a.clone().requires_grad_(a.is_floating_point()) if isinstance(a, Tensor) else a
        for a in args
    )
    out = outputs(block, args)
    block.zero_grad()
    sum(one.square().mean() for one in out).backward()  # pyright: ignore
    grads = [weight.grad for weight in block.parameters() if weight.grad is not None]
    return [*out, *grads, args[0].grad]  # pyright: ignore


@pytest.mark.parametrize("kind", [CrossBlock, DualBlock, LastDualBlock, SingleBlock])
def test_block_traces_into_one_graph_with_the_same_gradients(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    block = kind(width=WIDTH, heads=HEADS, mlp_ratio=4)
    eager = with_gradients(block, inputs(block))
    block.compile(fullgraph=True, backend="aot_eager")
    # The traced graph calls the same kernels; only fused sums of gradients may differ.
    torch.testing.assert_close(with_gradients(block, inputs(block)), eager, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_block_equals_eager() -> None:
    torch.manual_seed(0)
    block = CrossBlock(width=WIDTH, heads=HEADS, mlp_ratio=4)
    eager = block(*inputs(block))
    block.compile(fullgraph=True)
    # Float32; generated kernels sum in another order.
    torch.testing.assert_close(block(*inputs(block)), eager, rtol=1e-5, atol=1e-5)

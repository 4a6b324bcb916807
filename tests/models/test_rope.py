"""Rotary positions against complex numbers in float64, and what makes them relative."""

import cmath

import pytest
import torch
from torch import Tensor

from models.nn.rope import rope_table, rotate
from models.sora.dit_config import published_axes

CPU = torch.device("cpu")
GRID = (2, 3, 4)
AXES = (4, 6, 6)
THETA = 10_000.0


def rotate_by_formula(x_BHNK: Tensor, *, grid: tuple[int, int, int]) -> Tensor:
    """Each pair as a complex number times exp(i position theta^(-2 j / axis)), one by one."""
    out = x_BHNK.double().clone()
    half = x_BHNK.shape[-1] // 2
    cells = [(t, h, w) for t in range(grid[0]) for h in range(grid[1]) for w in range(grid[2])]
    for n, cell in enumerate(cells):
        pair = 0
        for position, channels in zip(cell, AXES, strict=True):
            for j in range(channels // 2):
                turn = cmath.exp(1j * position * THETA ** (-2 * j / channels))
                a, b = x_BHNK[..., n, pair].double(), x_BHNK[..., n, pair + half].double()
                out[..., n, pair] = a * turn.real - b * turn.imag
                out[..., n, pair + half] = a * turn.imag + b * turn.real
                pair += 1
    return out


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_rotation_is_the_formula() -> None:
    x_BHNK = random(2, 3, 24, 16)
    table = rope_table(GRID, axes=AXES, theta=THETA, device=CPU)
    # Float32 products of numbers of order one.
    torch.testing.assert_close(
        rotate(x_BHNK, table).double(), rotate_by_formula(x_BHNK, grid=GRID), rtol=0, atol=1e-6
    )


def test_scores_depend_on_the_distance_only() -> None:
    table = rope_table((8, 8, 8), axes=AXES, theta=THETA, device=CPU)
    q_K, k_K = random(2, 16)

    def score(query: tuple[int, int, int], key: tuple[int, int, int]) -> float:
        at = [cell[0] * 64 + cell[1] * 8 + cell[2] for cell in (query, key)]
        turned_q = rotate(q_K.view(1, 1, 1, 16), table[:, at[0] : at[0] + 1])
        turned_k = rotate(k_K.view(1, 1, 1, 16), table[:, at[1] : at[1] + 1])
        return float((turned_q.double() * turned_k.double()).sum())

    expected = score((0, 2, 1), (3, 0, 2))
    for shift in [(1, 0, 0), (0, 3, 0), (0, 0, 5), (4, 5, 2)]:
        query = (0 + shift[0], 2 + shift[1], 1 + shift[2])
        key = (3 + shift[0], 0 + shift[1], 2 + shift[2])
        assert score(query, key) == pytest.approx(expected, abs=1e-5)
    assert abs(score((0, 2, 1), (2, 0, 2)) - expected) > 1e-3


def test_positions_come_from_the_grid_not_from_its_size() -> None:
    small = rope_table((1, 2, 3), axes=AXES, theta=THETA, device=CPU)
    large = rope_table((4, 5, 6), axes=AXES, theta=THETA, device=CPU)
    cropped = large.view(2, 4, 5, 6, 8)[:, :1, :2, :3].reshape(2, 6, 8)
    assert torch.equal(small, cropped)


def test_unrotated_rows_leave_tokens_as_they_are() -> None:
    table = rope_table(GRID, axes=AXES, theta=THETA, device=CPU, unrotated=5)
    x_BHNK = random(1, 2, 29, 16)
    assert torch.equal(rotate(x_BHNK, table)[:, :, 24:], x_BHNK[:, :, 24:])


def test_table_is_made_once_and_serves_training_after_sampling() -> None:
    grid = (3, 5, 7)
    with torch.inference_mode():
        sampled = rope_table(grid, axes=AXES, theta=THETA, device=CPU)
    trained = rope_table(grid, axes=AXES, theta=THETA, device=CPU)
    assert sampled is trained
    x_BHNK = random(1, 1, 105, 16).requires_grad_()
    rotate(x_BHNK, trained).sum().backward()
    assert x_BHNK.grad is not None


def test_bf16_tokens_turn_by_float32_angles() -> None:
    table = rope_table((1, 1, 512), axes=(2, 2, 12), theta=THETA, device=CPU)
    x_BHNK = random(1, 1, 512, 16).bfloat16()
    turned = rotate(x_BHNK, table)
    assert turned.dtype == torch.bfloat16
    # One rounding to bf16 (8 bits) of the float32 result, nothing more.
    torch.testing.assert_close(turned.float(), rotate(x_BHNK.float(), table), rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("head_width", range(6, 258, 2))
def test_every_even_head_splits_into_pairs(head_width: int) -> None:
    axes = published_axes(head_width)
    assert sum(axes) == head_width
    assert all(channels % 2 == 0 and channels >= 2 for channels in axes)
    assert axes[1] == axes[2]


def test_published_head_splits_as_published() -> None:
    assert published_axes(128) == (16, 56, 56)
    assert published_axes(64) == (8, 28, 28)

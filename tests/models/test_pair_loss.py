"""The contrastive loss against cross entropy, and against sums written out in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.text.pair_loss import contrastive_loss
from models.text.pair_states import unit


def embeddings(pairs: int, *, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return unit(torch.randn(pairs, 6, generator=generator, dtype=torch.float64)).to(dtype)


def loss_by_formula(text: Tensor, image: Tensor, scale: float, group: list[int]) -> float:
    """Every picture over all captions and the other way round, one logarithm at a time."""
    pairs = len(group)
    logits = [[scale * float(image[i] @ text[j]) for j in range(pairs)] for i in range(pairs)]
    total = 0.0
    for i in range(pairs):
        equals = [j for j in range(pairs) if group[j] == group[i]]
        over_text = math.log(sum(math.exp(logits[i][j]) for j in range(pairs)))
        over_image = math.log(sum(math.exp(logits[j][i]) for j in range(pairs)))
        for j in equals:
            total += (over_text - logits[i][j]) / len(equals) / pairs / 2
            total += (over_image - logits[j][i]) / len(equals) / pairs / 2
    return total


def test_without_groups_it_is_cross_entropy_both_ways() -> None:
    text, image = embeddings(7, seed=0), embeddings(7, seed=1)
    logits, labels = 14.3 * image @ text.T, torch.arange(7)
    expected = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    actual = contrastive_loss(text, image, scale=torch.tensor(14.3, dtype=torch.float64))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("group", [[0, 1, 2, 3, 4], [5, 5, 2, 5, 2], [1, 1, 1, 1, 1]])
def test_groups_share_the_target(group: list[int]) -> None:
    text, image = embeddings(5, seed=2), embeddings(5, seed=3)
    actual = contrastive_loss(
        text, image, scale=torch.tensor(9.0, dtype=torch.float64), group_B=torch.tensor(group)
    )
    expected = loss_by_formula(text, image, 9.0, group)
    assert actual.item() == pytest.approx(expected, abs=1e-12)


def test_bf16_embeddings_are_multiplied_in_float32() -> None:
    text = embeddings(8, seed=4, dtype=torch.bfloat16)
    image = embeddings(8, seed=5, dtype=torch.bfloat16)
    scale = torch.tensor(100.0)
    actual = contrastive_loss(text, image, scale=scale)
    assert actual.dtype == torch.float32
    expected = loss_by_formula(text.double(), image.double(), 100.0, list(range(8)))
    assert actual.item() == pytest.approx(expected, rel=1e-5)  # float32 over a few sums


def test_shapes_that_differ_are_refused() -> None:
    text, scale = embeddings(4, seed=0), torch.tensor(1.0)
    with pytest.raises(ValueError, match=r"\(4, 6\) and image_BE \(3, 6\)"):
        contrastive_loss(text, text[:3], scale=scale)
    with pytest.raises(ValueError, match=r"group_B has shape \(3,\), wanted \(4,\)"):
        contrastive_loss(text, text, scale=scale, group_B=torch.arange(3))

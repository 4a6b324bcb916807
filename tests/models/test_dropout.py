"""Dropout by clip: its share, and what its mask depends on."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.nn.dropout import ClipDropout, frame_seeds
from tests.models.unets import ADM, EFFICIENT, clips, inputs_for, part, replace, stirred, times

SEEDS = torch.tensor([5, 2**31 - 1])
SHARE = 0.25


def dropout(*, number: int = 0) -> ClipDropout:
    layer = ClipDropout(SHARE)
    layer.number.fill_(number)
    return layer


def ones(**fields: Any) -> Tensor:
    return torch.ones(fields.get("frames", 6), 32, 16, 16)


def test_share_and_mean_are_right_in_every_direction() -> None:
    values = dropout()(ones(), frame_seeds(SEEDS, frames=3))
    kept = (values != 0).float()
    torch.testing.assert_close(values, kept / (1 - SHARE))
    assert kept.mean().item() == pytest.approx(1 - SHARE, abs=0.01)
    for dims in ((1, 2, 3), (0, 2, 3), (0, 1, 3), (0, 1, 2)):  # 5 standard deviations
        deviation = (SHARE * (1 - SHARE) / (kept.numel() / kept.mean(dims).numel())) ** 0.5
        assert (kept.mean(dims) - (1 - SHARE)).abs().max().item() < 5 * deviation


def test_neighbours_layers_frames_and_clips_are_not_alike() -> None:
    seed_N = frame_seeds(SEEDS, frames=3)
    kept = (dropout()(ones(), seed_N) != 0).float() - (1 - SHARE)
    other = (dropout(number=1)(ones(), seed_N) != 0).float() - (1 - SHARE)
    variance = SHARE * (1 - SHARE)
    for product in (
        kept * other,
        kept * kept.roll(1, dims=0),
        kept * kept.roll(3, dims=0),
        kept * kept.roll(1, dims=1),
        kept * kept.roll(1, dims=2),
        kept * kept.roll(1, dims=3),
    ):
        assert abs(product.mean().item()) / variance < 0.03


def test_a_clips_mask_does_not_depend_on_its_batch_or_the_memory_format() -> None:
    seed_N = frame_seeds(SEEDS, frames=3)
    together = dropout()(ones(), seed_N)
    alone = dropout()(ones(frames=3), frame_seeds(SEEDS[1:], frames=3))
    assert torch.equal(together[3:], alone)
    last = dropout()(ones().contiguous(memory_format=torch.channels_last), seed_N)
    assert torch.equal(last, together)


def test_it_is_the_identity_outside_of_training() -> None:
    x_NCHW = ones()
    assert dropout().eval()(x_NCHW, None) is x_NCHW
    with pytest.raises(ValueError, match=r"dropout=0\.25 without seeds, wanted dropout_B"):
        dropout()(x_NCHW, None)


@pytest.mark.parametrize("config", [ADM, EFFICIENT])
def test_a_network_drops_by_seed_and_by_nothing_else(config: Any) -> None:
    unet = stirred(config.model_copy(update={"dropout": SHARE})).train()
    x_BCTHW = clips()
    inputs = replace(inputs_for(unet.config, x_BCTHW), dropout_B=SEEDS)
    together = unet(x_BCTHW, times(), inputs)
    assert torch.equal(unet(x_BCTHW, times(), inputs), together)
    alone = unet(x_BCTHW[1:], times()[1:], part(inputs, slice(1, 2)))
    torch.testing.assert_close(alone, together[1:], rtol=1e-4, atol=1e-4)
    other = unet(x_BCTHW, times(), replace(inputs, dropout_B=SEEDS + 1))
    assert not torch.allclose(other, together)

"""Latent statistics against direct float64 computations."""

import pytest
import torch
from torch import Tensor

from models.sora.autoencoder import VideoAutoencoder
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.latents import LatentStatistics


def _normal(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_statistics_are_the_mean_and_deviation_of_all_clips() -> None:
    """Channels far from 0 beside their deviation, where float32 sums would lose digits."""
    scale, shift = torch.tensor([0.1, 1.0, 5.0]), torch.tensor([100.0, 0.0, -20.0])
    batches = [
        _normal(clips, 3, 2, 3, 4, seed=clips) * scale.view(1, 3, 1, 1, 1)
        + shift.view(1, 3, 1, 1, 1)
        for clips in (1, 2, 5)
    ]
    batches = [batch.float() for batch in batches]
    statistics = LatentStatistics(3)
    for batch in batches:
        statistics.update(batch)
    mean, std = statistics.finish(total=lambda sums: sums)
    z_CN = torch.cat(batches).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, z_CN.mean(1).float(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(std, z_CN.std(1, correction=0).float(), rtol=1e-6, atol=0)


def test_statistics_of_two_ranks_are_those_of_one() -> None:
    first, second, both = LatentStatistics(3), LatentStatistics(3), LatentStatistics(3)
    sums: list[Tensor] = []

    def remember(found: Tensor) -> Tensor:
        sums.append(found.clone())
        return found

    for rank, seed in ((first, 1), (second, 2)):
        z = _normal(2, 3, 1, 4, 4, seed=seed)
        rank.update(z)
        both.update(z)
        rank.finish(total=remember)
    found = first.finish(total=lambda _: sums[0] + sums[1])
    torch.testing.assert_close(found, both.finish(), rtol=0, atol=0)


def test_statistics_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^no latents were added, wanted at least one clip$"):
        LatentStatistics(3).finish()


def test_normalised_latents_have_mean_0_and_deviation_1_and_come_back() -> None:
    autoencoder = VideoAutoencoder(AutoencoderConfig(latent_channels=3, width=4, blocks=1)).double()
    z = _normal(4, 3, 2, 4, 4) * 3 + 1
    statistics = LatentStatistics(3)
    statistics.update(z)
    mean, std = statistics.finish()
    autoencoder.latent_mean.copy_(mean)
    autoencoder.latent_std.copy_(std)
    normal_CN = autoencoder.normalise(z).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normal_CN.mean(1), torch.zeros(3).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        normal_CN.std(1, correction=0), torch.ones(3).double(), rtol=0, atol=1e-6
    )
    back = autoencoder.denormalise(autoencoder.normalise(z))
    torch.testing.assert_close(back, z, rtol=0, atol=1e-12)
    assert {"latent_mean", "latent_std"} <= set(autoencoder.state_dict())

"""The adversarial term and the patch discriminator."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.sora.autoencoder import Posterior
from models.sora.autoencoder_config import AdversarialConfig, AutoencoderLossConfig
from models.sora.autoencoder_loss import AutoencoderLoss
from models.sora.discriminator import PatchDiscriminator3D

ADVERSARIAL = AdversarialConfig(start_step=0, weight=0.25, width=4, layers=2)
CONFIG = AutoencoderLossConfig(l1=1.0, l2=0.5, kl=0.1, adversarial=ADVERSARIAL)
SIZE = (2, 3, 5, 16, 16)


def _critic() -> PatchDiscriminator3D:
    torch.manual_seed(0)
    return PatchDiscriminator3D(ADVERSARIAL)


def _normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _posterior() -> Posterior:
    return Posterior(mean=_normal(2, 4, 2, 2, 2), logvar=_normal(2, 4, 2, 2, 2, seed=2))


def test_the_generators_loss_is_the_weighted_sum_of_its_terms() -> None:
    x, made, critic = _normal(*SIZE), _normal(*SIZE, seed=2), _critic()
    loss, stats = AutoencoderLoss(CONFIG).generator(x, made, _posterior(), critic=critic)
    wanted = (
        F.l1_loss(made, x)
        + 0.5 * F.mse_loss(made, x)
        + 0.1 * _posterior().kl().mean()
        - 0.25 * critic(made).mean()
    )
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)
    assert set(stats) == {"l1", "mse", "kl", "adversarial", "loss"}
    assert not any(value.requires_grad for value in stats.values())


def test_before_the_discriminator_takes_part_there_is_no_adversarial_term() -> None:
    x, made = _normal(*SIZE), _normal(*SIZE, seed=2)
    with_it, _ = AutoencoderLoss(CONFIG).generator(x, made, _posterior(), critic=_critic())
    without, stats = AutoencoderLoss(CONFIG).generator(x, made, _posterior(), critic=None)
    assert "adversarial" not in stats
    assert with_it.item() != without.item()


def test_the_generators_pass_leaves_the_discriminator_without_gradient() -> None:
    made, critic = _normal(*SIZE).requires_grad_(), _critic()
    next(critic.parameters()).requires_grad_(False)  # one that was frozen before stays so
    before = [one.requires_grad for one in critic.parameters()]
    loss, _ = AutoencoderLoss(CONFIG).generator(made.detach(), made, _posterior(), critic=critic)
    loss.backward()
    assert made.grad is not None
    assert made.grad.abs().max().item() > 0  # the critic's opinion is all that is left at x = made
    assert all(one.grad is None for one in critic.parameters())
    assert [one.requires_grad for one in critic.parameters()] == before


def test_a_failing_critic_is_left_trainable() -> None:
    """Four channels of pixels do not fit its stem."""
    critic, clips = _critic(), _normal(2, 4, 5, 16, 16)
    with pytest.raises(RuntimeError, match="channels"):
        AutoencoderLoss(CONFIG).generator(clips, clips, _posterior(), critic=critic)
    assert all(one.requires_grad for one in critic.parameters())


def test_the_discriminators_loss_is_the_hinge_and_spares_the_generator() -> None:
    x, made, critic = _normal(*SIZE), _normal(*SIZE, seed=2).requires_grad_(), _critic()
    loss, stats = AutoencoderLoss(CONFIG).discriminator(x, made, critic)
    real, fake = critic(x), critic(made)
    wanted = 0.5 * ((1 - real).clamp_min(0).mean() + (1 + fake).clamp_min(0).mean())
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)  # batches of 4 and of 2
    loss.backward()
    assert made.grad is None
    assert all(one.grad is not None for one in critic.parameters())
    assert set(stats) == {"discriminator"}
    assert not stats["discriminator"].requires_grad


@torch.no_grad()
def test_clips_that_are_told_apart_by_the_margin_cost_nothing() -> None:
    x, made = torch.ones(2, 3, 1, 4, 4), -torch.ones(2, 3, 1, 4, 4)
    loss = AutoencoderLoss(CONFIG)
    assert loss.discriminator(x, made, lambda clips: 1.5 * clips)[0].item() == 0.0
    assert loss.discriminator(x, made, lambda clips: 0.5 * clips)[0].item() == 0.5
    assert loss.discriminator(x, made, lambda clips: -clips)[0].item() == 2.0


@torch.no_grad()
def test_a_clips_scores_do_not_depend_on_its_batch() -> None:
    critic, x = _critic(), _normal(4, *SIZE[1:])
    # Float32 sums of a convolution, in another order for another batch.
    torch.testing.assert_close(critic(x)[1:2], critic(x[1:2]), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("frames", "side"), [(1, 16), (5, 16), (9, 32), (17, 24)])
def test_images_and_clips_are_scored_by_patches(frames: int, side: int) -> None:
    scores = _critic()(_normal(2, 3, frames, side, side))
    # Two strides in space; in time the stem keeps all frames.
    assert scores.shape == (2, 1, (frames - 1) // 2 + 1, side // 4 + 1, side // 4 + 1)
    assert scores.dtype == torch.float32


def test_it_learns_to_tell_noise_from_flat_clips() -> None:
    critic, loss = _critic(), AutoencoderLoss(CONFIG)
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    losses: list[float] = []
    for step in range(20):
        value, _ = loss.discriminator(_normal(*SIZE, seed=step), torch.zeros(SIZE), critic)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0] / 2

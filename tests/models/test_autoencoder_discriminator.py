"""Which clips the patch discriminator takes, and what a failing one leaves behind."""

import pytest
import torch
from torch import Tensor

from models.sora.autoencoder import Posterior
from models.sora.autoencoder_config import AdversarialConfig, AutoencoderLossConfig
from models.sora.autoencoder_loss import AutoencoderLoss
from models.sora.discriminator import PatchDiscriminator3D

ADVERSARIAL = AdversarialConfig(start_step=0, width=4, layers=2)


def _critic() -> PatchDiscriminator3D:
    torch.manual_seed(0)
    return PatchDiscriminator3D(ADVERSARIAL)


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize(("frames", "side"), [(1, 16), (5, 16), (9, 32), (17, 24)])
def test_images_and_clips_are_scored_by_patches(frames: int, side: int) -> None:
    scores = _critic()(_normal(2, 3, frames, side, side))
    # Two strides in space; in time the stem keeps all frames.
    assert scores.shape == (2, 1, (frames - 1) // 2 + 1, side // 4 + 1, side // 4 + 1)
    assert scores.dtype == torch.float32


def test_a_failing_critic_is_left_trainable() -> None:
    """Four channels of pixels do not fit its stem."""
    critic, clips = _critic(), _normal(2, 4, 5, 16, 16)
    posterior = Posterior(mean=torch.zeros(2, 4, 2, 2, 2), logvar=torch.zeros(2, 4, 2, 2, 2))
    loss = AutoencoderLoss(AutoencoderLossConfig(adversarial=ADVERSARIAL))
    with pytest.raises(RuntimeError, match="channels"):
        loss.generator(clips, clips, posterior, critic=critic)
    assert all(one.requires_grad for one in critic.parameters())

"""The autoencoder's losses: reconstruction, KL, perceptual and adversarial.

Shape letters: B clips, T H W frames, height and width.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.sora.autoencoder import Posterior
from models.sora.autoencoder_config import AutoencoderLossConfig
from models.sora.perceptual import PerceptualDistance

Stats = dict[str, Tensor]
Critic = Callable[[Tensor], Tensor]


class AutoencoderLoss(nn.Module):
    """Weighted sum of the terms that the config names.

    Source: HunyuanVideo, arXiv:2412.03603, section 4.1: L1 + 0.1 LPIPS + 0.05 adversarial +
    1e-6 KL; the hinge loss is Lim and Ye 2017, arXiv:1705.02894. An L2 term may be added: on
    clips that are mostly background L1 alone is slow to leave the median.
    """

    def __init__(self, config: AutoencoderLossConfig) -> None:
        super().__init__()
        self.config = config
        self.distance = None if config.perceptual is None else PerceptualDistance(config.perceptual)

    def generator(
        self,
        x_B3THW: Tensor,
        reconstruction_B3THW: Tensor,
        posterior: Posterior,
        *,
        critic: nn.Module | None,
    ) -> tuple[Tensor, Stats]:
        """The autoencoder's loss.

        Args:
            x_B3THW: clips in [-1, 1].
            reconstruction_B3THW: their reconstructions.
            posterior: the latents' distribution.
            critic: the discriminator once it takes part; its parameters get no gradient here.

        Returns:
            A scalar, and detached scalars by name.
        """
        config = self.config
        error = reconstruction_B3THW - x_B3THW
        l1, l2, kl = error.abs().mean(), error.square().mean(), posterior.kl().mean()
        loss = config.l1 * l1 + config.l2 * l2 + config.kl * kl
        stats = {"l1": l1, "mse": l2, "kl": kl}
        if self.distance is not None and config.perceptual is not None:
            stats["perceptual"] = self.distance(reconstruction_B3THW, x_B3THW)
            loss = loss + config.perceptual.weight * stats["perceptual"]
        if critic is not None and config.adversarial is not None:
            stats["adversarial"] = -_without_gradient(critic, reconstruction_B3THW).mean()
            loss = loss + config.adversarial.weight * stats["adversarial"]
        stats["loss"] = loss
        return loss, {name: value.detach() for name, value in stats.items()}

    def discriminator(
        self, x_B3THW: Tensor, reconstruction_B3THW: Tensor, critic: Critic
    ) -> tuple[Tensor, Stats]:
        """Hinge loss of the discriminator on real clips and detached reconstructions."""
        both = torch.cat([x_B3THW, reconstruction_B3THW.detach()])
        real, fake = critic(both).chunk(2)
        loss = 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
        return loss, {"discriminator": loss.detach()}


def _without_gradient(critic: nn.Module, x_B3THW: Tensor) -> Tensor:
    """The critic's scores, with a gradient for the clips but none for the critic."""
    trained = [one for one in critic.parameters() if one.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        return critic(x_B3THW)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)

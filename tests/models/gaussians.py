"""Data whose best denoiser is known exactly: mixtures of isotropic Gaussians.

Shape letters: X any dimensions, the last one is the space; K modes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.guidance import Denoise
from models.diffusion.objective import Objective


@dataclass(frozen=True)
class Mixture:
    """Weights [K], means [K, space] and standard deviations [K], float64."""

    weights: Tensor
    means: Tensor
    stds: Tensor

    def posterior_mean(self, x_t: Tensor, *, alpha: Tensor, sigma: Tensor) -> Tensor:
        """E[x | x_t] for x_t = alpha x + sigma noise, by Bayes' rule."""
        variance = alpha**2 * self.stds**2 + sigma**2
        away = x_t[..., None, :] - alpha[..., None] * self.means
        log_density = -0.5 * away.square().sum(-1) / variance
        log_density = log_density - 0.5 * self.means.shape[-1] * variance.log()
        share = torch.softmax(self.weights.log() + log_density, dim=-1)
        gain = alpha * self.stds**2 / variance
        mean = self.means + gain[..., None] * away
        return (share[..., None] * mean).sum(-2)

    def denoiser(self, objective: Objective) -> Denoise:
        """The best possible network for this data under an objective."""

        def denoise(x_t: Tensor, t_B: Tensor) -> Tensor:
            shares = objective.coefficients(t_B)
            shape = (-1, *[1] * (x_t.dim() - 1))
            alpha, sigma = shares.alpha_B.view(shape), shares.sigma_B.view(shape)
            clean = self.posterior_mean(x_t, alpha=alpha, sigma=sigma)
            return objective.express(clean, x_t, t_B)

        return denoise


def gaussian(*, mean: float, std: float) -> Mixture:
    """One mode in one dimension."""
    one = torch.ones(1, dtype=torch.float64)
    return Mixture(weights=one, means=mean * one[:, None], stds=std * one)


def three_modes() -> Mixture:
    """Unequal modes in the plane, some 6 standard deviations and more apart."""
    return Mixture(
        weights=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64),
        means=torch.tensor([[-1.5, 0.0], [1.0, 1.0], [0.8, -1.2]], dtype=torch.float64),
        stds=torch.tensor([0.3, 0.2, 0.25], dtype=torch.float64),
    )

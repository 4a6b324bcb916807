"""What is known of a clip before a network looks at it, taken out of what the network has to say.

Shape letters: B clips, C channels, T frames, H W height and width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.objective import Objective
from models.diffusion.schedules import cosine
from models.diffusion.shapes import per_clip


@dataclass(frozen=True)
class Preconditioning:
    """Pixels are expected to lie around a mean, by so much: normal, each for itself.

    Then the best guess of the objective's target from x_t alone is linear in x_t and the mean,
    and so is the scale of what the guess leaves open. The network's output is in units of that
    scale: zeros stand for the guess, and at every time there is as much left to learn.

    Source: the skip connection and the scales of Karras et al. 2022, arXiv:2206.00364, equation
    7 and appendix B.6, which minimise what the network's errors are amplified by. Here the mean
    may be a clip (the smaller one that a network enlarges), and the target any of ours. Where
    that clip was mixed with noise, its own best guess is taken: of white pixels, as ``augment``
    has them.
    """

    objective: Objective
    std: float  # root mean square of the pixels' distance from the mean
    mean: float  # of all pixels, where there is no clip to be the mean

    def __call__(
        self,
        output: Tensor,
        x_t_BCTHW: Tensor,
        t_B: Tensor,
        mean_BCTHW: Tensor | None,
        level_B: Tensor | None = None,
    ) -> Tensor:
        """The prediction that an output stands for.

        Args:
            output: of the network at x_t, [B, C, T, H, W], or with a learned variance 2 C
                channels, of which the second half stays as it is.
            x_t_BCTHW: noisy clips.
            t_B: their times, [B].
            mean_BCTHW: what the clips are expected to be, or None for ``mean``.
            level_B: how much noise was mixed into that (``augmentation.augment``), [B], or None.

        Returns:
            As ``output``, for ``Objective.loss`` and ``Objective.predict``.
        """
        shares = self.objective.coefficients(t_B)
        alpha, sigma = (per_clip(one, like=x_t_BCTHW) for one in (shares.alpha_B, shares.sigma_B))
        spread = torch.full_like(alpha, self.std**2)
        mean = self.mean if mean_BCTHW is None else mean_BCTHW
        if level_B is not None:
            kept = cosine(level_B)
            mean = per_clip(kept.alpha_B.to(x_t_BCTHW), like=x_t_BCTHW) * mean
            spread = spread + per_clip(kept.sigma_B, like=x_t_BCTHW) ** 2
        # Of x_t around alpha times the mean; 0 only where x_t is clean and std is 0.
        variance = sigma**2 + alpha**2 * spread
        match self.objective.kind:
            case "v":
                from_x_t, from_mean, scale = alpha * sigma * (1 - spread), -sigma, 1.0
            case "epsilon":
                from_x_t, from_mean, scale = sigma, -alpha * sigma, alpha
            case "flow":
                from_x_t, from_mean, scale = sigma - alpha * spread, -sigma, 1.0
            case "x0":
                from_x_t, from_mean, scale = alpha * spread, sigma**2, sigma
        guess = (from_x_t / variance).to(x_t_BCTHW) * x_t_BCTHW
        guess = guess + (from_mean / variance).to(x_t_BCTHW) * mean
        left = (scale * (spread / variance).sqrt()).to(output)
        channels = x_t_BCTHW.shape[1]
        prediction = guess + left * output[:, :channels]
        return torch.cat([prediction, output[:, channels:]], dim=1)

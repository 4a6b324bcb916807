"""What every sampling rule needs beside the noise it starts from.

Shape letters: B clips, C channels, T frames, H W height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import assert_never

import torch
from torch import Tensor

from models.diffusion.config import SamplerConfig
from models.diffusion.guidance import Denoise
from models.diffusion.moments import Moment
from models.diffusion.objective import Objective, Prediction
from models.diffusion.thresholds import clip_dynamic, clip_static


@dataclass(frozen=True)
class Run:
    """One batch on its way from noise to clips."""

    denoise: Denoise
    objective: Objective
    config: SamplerConfig
    moments: list[Moment]
    generators: Sequence[torch.Generator]

    def steps(self) -> list[tuple[Moment, Moment]]:
        """(here, next) pairs from noise to clean."""
        return list(zip(self.moments[:-1], self.moments[1:], strict=True))

    def predict(self, x_BCTHW: Tensor, at: Moment) -> Prediction:
        """Clean clip, thresholded if the sampler says so, and its noise at one moment."""
        t_B = torch.full(x_BCTHW.shape[:1], at.t, dtype=torch.float64, device=x_BCTHW.device)
        output = self.denoise(x_BCTHW, t_B.float())
        found = self.objective.predict(output.to(x_BCTHW.dtype), x_BCTHW, t_B)
        match self.config.threshold:
            case None:
                return found
            case "static":
                clean = clip_static(found.clean)
            case "dynamic":
                clean = clip_dynamic(found.clean, percentile=self.config.percentile)
            case unknown:
                assert_never(unknown)
        # The noise that is left in x_t then, so that the two still add up to it.
        return replace(found, clean=clean, noise=(x_BCTHW - at.alpha * clean) / at.sigma)

    def draw(self, like: Tensor) -> Tensor:
        """Fresh noise, clip by clip from its own generator, on the clips' device."""
        draws = [
            torch.randn(like.shape[1:], generator=one, dtype=like.dtype, device=one.device)
            for one in self.generators
        ]
        return torch.stack(draws).to(like.device)

"""Mean and deviation of latents per channel, measured over many clips.

Shape letters: B clips, C latent channels, T H W latent grid.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class LatentStatistics:
    """Sums that can be shared between ranks before they are finished."""

    def __init__(self, channels: int) -> None:
        self._sums_3C = torch.zeros(3, channels, dtype=torch.float64)

    def update(self, z_BCTHW: Tensor) -> None:
        """Adds clips."""
        z_CN = z_BCTHW.detach().transpose(0, 1).flatten(1).double().cpu()
        count_C = torch.full((z_CN.shape[0],), float(z_CN.shape[1]), dtype=torch.float64)
        self._sums_3C += torch.stack([count_C, z_CN.sum(1), z_CN.square().sum(1)])

    def finish(
        self, *, total: Callable[[Tensor], Tensor] = lambda sums: sums
    ) -> tuple[Tensor, Tensor]:
        """Mean and deviation, each [C], float32.

        Args:
            total: adds the sums of all ranks; of one rank alone, the identity.

        Raises:
            ValueError: if no clip was added.
        """
        count_C, sum_C, square_C = total(self._sums_3C)
        if not count_C.all():
            raise ValueError("no latents were added, wanted at least one clip")
        mean_C = sum_C / count_C
        variance_C = (square_C / count_C - mean_C.square()).clamp_min(1e-12)
        return mean_C.float(), variance_C.sqrt().float()

"""A denoiser's loss, and where over the noise it lies.

Shape letters: B clips, K bands of time.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from orchestrator.train.tasks.base import Loss

BANDS = 4  # of equal width: a network that fails at one end of the noise alone is seen to


class TimedLoss(NamedTuple):
    """Loss of each clip and the time in [0, 1] that it was noised to, both [B]."""

    loss_B: Tensor
    t_B: Tensor

    def mean(self) -> Loss:
        """The mean over clips to go backward from; logged as ``loss``, and by band of time.

        A band's mean is over its clips alone, which may be none in a batch: its sum is logged
        with their number.
        """
        value = self.loss_B.mean()
        loss_B = self.loss_B.detach().float()
        band_B = (self.t_B * BANDS).long().clamp(0, BANDS - 1).to(loss_B.device)
        # Not bincount, which waits for the device, nor index_add_, whose sums have no fixed order.
        is_in_BK = band_B[:, None] == torch.arange(BANDS, device=loss_B.device)
        sums_K = torch.where(is_in_BK, loss_B[:, None], 0.0).sum(dim=0)
        clips_K = is_in_BK.sum(dim=0).float()
        names = [f"loss/t{band / BANDS:.2f}-{(band + 1) / BANDS:.2f}" for band in range(BANDS)]
        return Loss(
            value=value,
            stats={"loss": value.detach(), **dict(zip(names, sums_K.unbind(), strict=True))},
            weights=dict(zip(names, clips_K.unbind(), strict=True)),
        )

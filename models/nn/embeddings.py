"""Embedding of the diffusion time, and the two-layer networks around it.

Shape letters: B clips, F sinusoid features, D model width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TIME_FEATURES = 256
_TIME_SCALE = 1000.0
_MAX_PERIOD = 10_000.0


def sinusoids(t_B: Tensor, *, features: int = TIME_FEATURES) -> Tensor:
    """Cosines and sines of a time in [0, 1], float32 [B, F].

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5, over 1000 t, so that the
    frequencies are those of DiT's thousand steps.
    """
    half = features // 2
    steps = torch.arange(half, dtype=torch.float32, device=t_B.device)
    frequencies = torch.exp(-math.log(_MAX_PERIOD) / half * steps)
    angles_BF = _TIME_SCALE * t_B.float()[:, None] * frequencies
    return torch.cat([angles_BF.cos(), angles_BF.sin()], dim=-1)


class TwoLayer(nn.Module):
    """Linear, SiLU, Linear: from an embedding to the model's width."""

    def __init__(self, *, features: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(features, width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps the last dim from ``features`` to ``width``."""
        return self.out(F.silu(self.hidden(x)))


class TimeEmbedding(nn.Module):
    """The diffusion time as a vector of the model's width."""

    def __init__(self, *, width: int) -> None:
        super().__init__()
        self.mlp = TwoLayer(features=TIME_FEATURES, width=width)

    def forward(self, t_B: Tensor) -> Tensor:
        """Returns [B, D] in the dtype of the weights; ``t_B`` stays float32 until the sinusoids."""
        return self.mlp(sinusoids(t_B).to(self.mlp.hidden.weight.dtype))

"""Normalisation, and the scale, shift and gate that a conditioning vector puts around it.

Shape letters: B clips, N tokens, D model width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6


def layer_norm(x_BND: Tensor) -> Tensor:
    """LayerNorm over D without weights; returns the shape of ``x_BND``."""
    return F.layer_norm(x_BND, x_BND.shape[-1:], eps=EPS)


def modulate(x_BND: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    """Normalises over D, then multiplies by 1 + scale and adds shift."""
    return torch.addcmul(shift_B1D, layer_norm(x_BND), 1 + scale_B1D)


def add_gated(x_BND: Tensor, gate_B1D: Tensor, update_BND: Tensor) -> Tensor:
    """Adds an update times its gate to the residual stream."""
    return torch.addcmul(x_BND, gate_B1D, update_BND)


class Modulation(nn.Module):
    """From the conditioning vector to ``parts`` shifts, scales or gates; all zero at first.

    Source: Peebles & Xie 2022, arXiv:2212.09748, section 3.2 (adaLN-Zero).
    """

    def __init__(self, *, width: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)

    def reset_parameters(self) -> None:
        """Zeros: with gates at zero a block adds nothing."""
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, cond_BD: Tensor) -> tuple[Tensor, ...]:
        """Returns ``parts`` tensors [B, 1, D]."""
        return self.linear(F.silu(cond_BD)).unsqueeze(1).chunk(self.parts, dim=-1)

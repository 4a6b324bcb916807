"""Times in [0, 1]: how training draws them and how sampling steps through them.

Shape letters: B clips.
"""

import torch
from torch import Tensor


def shift_time(t: Tensor, *, shift: float) -> Tensor:
    """Moves times towards 1 for ``shift`` above 1; 0 and 1 stay where they are.

    Args:
        t: times in [0, 1], any shape.
        shift: ratio of the noise-to-signal ratios after and before, above 0.

    Returns:
        Times of the same shape and dtype.

    Source: Esser et al. 2024, arXiv:2403.03206, equation 23 with shift = sqrt(m/n).
    """
    # 1 - t + shift t, not 1 + (shift - 1) t: the two are equal, but only this one maps 1 to 1.
    return shift * t / (1 - t + shift * t)


def logit_normal(uniform_B: Tensor, *, mean: float, std: float) -> Tensor:
    """Maps uniform draws in [0, 1) to times whose logit is normal, [B].

    Source: Esser et al. 2024, arXiv:2403.03206, equation 19.
    """
    return torch.sigmoid(mean + std * torch.special.ndtri(uniform_B))


def time_grid(steps: int, *, shift: float) -> Tensor:
    """Times from exactly 1 down to exactly 0, [steps + 1], float64 on the CPU."""
    uniform = torch.linspace(1.0, 0.0, steps + 1, dtype=torch.float64)
    return shift_time(uniform, shift=shift)

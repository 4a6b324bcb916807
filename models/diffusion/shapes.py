"""Numbers per clip, made to multiply clips.

Shape letters: B clips.
"""

from torch import Tensor


def per_clip(values_B: Tensor, *, like: Tensor) -> Tensor:
    """Views [B] as [B, 1, ..., 1] with as many dimensions as ``like``, [B, ...]."""
    return values_B.view(-1, *[1] * (like.dim() - 1))

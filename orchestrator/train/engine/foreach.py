"""In-place operations on lists of tensors, one kernel launch for many of them.

torch documents these only by their use in torch.optim, hence the underscores.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def move_average(average: Sequence[Tensor], *, towards: Sequence[Tensor], decay: float) -> None:
    """average = decay * average + (1 - decay) * towards."""
    torch._foreach_lerp_(list(average), list(towards), 1.0 - decay)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def scale(tensors: Sequence[Tensor], *, factor: float) -> None:
    """Multiplies all by one number."""
    torch._foreach_mul_(list(tensors), factor)  # pyright: ignore[reportPrivateImportUsage]


@torch.no_grad()
def copy(target: Sequence[Tensor], *, source: Sequence[Tensor]) -> None:
    """Copies pairwise, converting to the target's dtype."""
    torch._foreach_copy_(list(target), list(source))  # pyright: ignore[reportPrivateImportUsage]

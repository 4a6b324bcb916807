"""FLOPs of a module's forward pass, counted by torch on the meta device."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def forward_flops(build: Callable[[], nn.Module], *shapes: tuple[int, ...]) -> float:
    """FLOPs of one forward pass (multiply and add counted apart).

    Args:
        build: makes the module; called with the meta device as default, so nothing is allocated.
        shapes: shapes of the float tensors that the module takes.
    """
    with torch.device("meta"):
        module = build()
        inputs: list[Tensor] = [torch.empty(shape) for shape in shapes]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(*inputs)
    return float(counter.get_total_flops())

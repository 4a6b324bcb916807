"""Recomputation and compilation of a network, block by block."""

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def apply_memory_and_speed(
    blocks: Iterable[nn.Module], *, checkpointing: bool, compile: bool
) -> None:
    """Changes blocks in place, before the engine is built; parameter names stay as they are.

    Args:
        blocks: modules whose forward passes make up most of the network.
        checkpointing: keep only each block's input and recompute the rest in the backward pass.
        compile: ``torch.compile`` each block.
    """
    for block in blocks:
        if checkpointing:
            # Bound on the instance: wrapping in a module would rename every parameter.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if compile:
            block.compile()

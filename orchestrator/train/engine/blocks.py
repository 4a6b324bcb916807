"""Recomputation and compilation of a network, block by block."""

from collections.abc import Iterable
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

_VARIANTS = 64


def apply_memory_and_speed(
    blocks: Iterable[nn.Module], *, checkpointing: bool, compile: bool
) -> None:
    """Changes blocks in place, before the engine is built; parameter names stay as they are.

    Args:
        blocks: modules whose forward passes make up most of the network.
        checkpointing: keep only each block's input and recompute the rest in the backward pass.
        compile: ``torch.compile`` each block.
    """
    if compile:
        # All blocks share one code object, and each kind of block, shape and mode is a variant of
        # it: past torch's default of 8 the rest would silently run uncompiled.
        torch._dynamo.config.recompile_limit = _VARIANTS  # pyright: ignore
    # Bound on the instance: wrapping in a module would rename every parameter.
    for block in blocks:
        if compile:
            block.forward = torch.compile(block.forward)
        if checkpointing:
            # Around the compiled code: torch compiles nothing of a call that leads to this one.
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)

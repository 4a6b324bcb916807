"""Whole tensors on rank 0 out of the slices that the ranks own."""

import math
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from orchestrator.train.engine.base import Fragment, StateKey
from orchestrator.train.exchange import gather_json


def collect(
    fragments: Iterable[Fragment], *, key: StateKey, device: torch.device
) -> dict[str, Tensor]:
    """One kind of state, whole, by parameter name, float32 on the CPU; empty but on rank 0.

    Slices travel one at a time, so that the device holds no more than one beside its own.
    Collective.
    """
    own = list(fragments)
    addresses = gather_json(
        [[fragment.name, list(fragment.shape), fragment.start, fragment.numel] for fragment in own],
        device=device,
    )
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank != 0:
        for fragment in own:
            dist.send(fragment.tensors[key].contiguous(), dst=0)
        return {}
    whole: dict[str, Tensor] = {}
    for source, slices in enumerate(addresses):
        for index, (name, shape, start, numel) in enumerate(slices):
            if source == 0:
                part = own[index].tensors[key]
            else:
                part = torch.empty(numel, dtype=torch.float32, device=device)
                dist.recv(part, src=source)
            if name not in whole:
                whole[name] = torch.empty(shape, dtype=torch.float32)
            assert start + numel <= math.prod(shape)
            whole[name].view(-1)[start : start + numel].copy_(part)
    return whole

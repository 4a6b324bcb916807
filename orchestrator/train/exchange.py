"""What ranks tell each other over the process group: small JSON, arrays, and rows of a batch."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def gather_json(value: Any, *, device: torch.device) -> list[Any]:
    """Every rank's value, by rank, on every rank; collective.

    Args:
        value: anything that JSON holds.
        device: where the process group's backend expects tensors.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [json.loads(json.dumps(value))]
    payload = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    world_size = dist.get_world_size()
    lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size)]
    dist.all_gather(lengths, torch.tensor([payload.numel()], device=device))
    counts = [int(length) for length in torch.cat(lengths).tolist()]
    padded = torch.zeros(max(counts), dtype=torch.uint8, device=device)
    padded[: payload.numel()] = payload.to(device)
    parts = [torch.empty_like(padded) for _ in range(world_size)]
    dist.all_gather(parts, padded)
    return [
        json.loads(part[:count].cpu().numpy().tobytes())
        for part, count in zip(parts, counts, strict=True)
    ]


def broadcast_arrays(arrays: Sequence[np.ndarray], *, device: torch.device) -> list[np.ndarray]:
    """Rank 0's arrays on every rank; collective.

    Args:
        arrays: float32, of any shapes; only rank 0's are looked at.
        device: where the process group's backend expects tensors.
    """
    shapes = gather_json([list(array.shape) for array in arrays], device=device)[0]
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return list(arrays)
    taken: list[np.ndarray] = []
    for number, shape in enumerate(shapes):
        if dist.get_rank() == 0:
            tensor = torch.from_numpy(np.ascontiguousarray(arrays[number])).to(device)
        else:
            tensor = torch.empty(shape, device=device)
        dist.broadcast(tensor, src=0)
        taken.append(tensor.cpu().numpy())
    return taken


def gather_rows(x_BE: Tensor) -> Tensor:
    """The rows of all ranks, rank by rank, on every rank; collective, also backward.

    If every rank goes backward from the same value made of these rows, the mean of the ranks'
    gradients, as the engines take it, is the gradient of that value.

    Args:
        x_BE: as many rows on every rank.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x_BE
    return _GatherRows.apply(x_BE)  # pyright: ignore[reportReturnType]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BE: Tensor) -> Tensor:
        ctx.rows = len(x_BE)
        parts = [torch.empty_like(x_BE) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x_BE.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        # The sum over ranks: each of them holds the whole value's gradient, and the mean over
        # ranks that follows divides it by their number again.
        summed = grads[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed.narrow(0, dist.get_rank() * ctx.rows, ctx.rows)

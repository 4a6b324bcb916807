"""From a host's memory to a device: where batches become tensors.

A GPU fetches what lies in pinned memory by itself, when its turn comes, and the process goes on.
Anything else is waited for, and with it all that the GPU has still to do.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.data.blocks import Allocate, allocate, side_by_side

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")

# Arrays that a GPU may not have fetched yet, and what tells: held, so that no one reads into them.
_UNDERWAY: deque[tuple[torch.cuda.Event, NDArray[Any]]] = deque()


def allocate_for(device: torch.device) -> Allocate:
    """Memory for arrays on their way to a device: pinned for a GPU."""
    return _pinned_bytes if device.type == "cuda" else allocate


def on_device(x: Tensor, *, device: torch.device) -> Tensor:
    """A tensor on a device; itself if it is there."""
    if device.type != "cuda" or x.is_cuda:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


def record_on_device(record: R, *, device: torch.device) -> R:
    """A dataclass of tensors on a device."""
    tensors: dict[str, Tensor] = {one.name: getattr(record, one.name) for one in fields(record)}
    moved = {name: on_device(x, device=device) for name, x in tensors.items()}
    return replace(record, **moved)


def stacked_on_device(arrays: Sequence[NDArray[Any]], *, device: torch.device) -> Tensor:
    """Arrays of one shape and type as one tensor on a device, [N, ...]; not to be written into.

    Those that lie side by side are not copied first: for a GPU they are in pinned memory already,
    where the threads that read ahead have put them.

    Raises:
        ValueError: if there are none, or their shapes differ.
    """
    together = side_by_side(arrays)
    if device.type != "cuda":
        return torch.from_numpy(np.stack(arrays) if together is None else together)
    if together is not None:
        return _fetched(together, device=device)
    dtype = torch.from_numpy(np.empty(0, dtype=arrays[0].dtype)).dtype
    pinned = torch.empty(len(arrays), *arrays[0].shape, dtype=dtype, pin_memory=True)
    np.stack(arrays, out=pinned.numpy())
    return pinned.to(device, non_blocking=True)


def _fetched(array: NDArray[Any], *, device: torch.device) -> Tensor:
    """An array on a GPU, which may fetch it later: it is not written to before.

    Torch sees to that for tensors of its own, but not for arrays in their memory.
    """
    x = torch.from_numpy(array)
    if not x.is_pinned():
        return on_device(x, device=device)
    moved = x.to(device, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    _UNDERWAY.append((event, array))
    while _UNDERWAY[0][0].query() and len(_UNDERWAY) > 1:
        _UNDERWAY.popleft()
    return moved


def _pinned_bytes(size: int) -> NDArray[np.uint8]:
    return torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()

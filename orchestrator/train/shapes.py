"""Shapes of what calls give, by their formulas.

Run on the meta device some of these import half of torch's compiler, which takes seconds.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def empty_like(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    """``torch.empty_like``, which on meta is Python and first imports half of torch's compiler."""
    strides = x.stride()
    if x.is_contiguous() or 0 in strides:
        return torch.empty(x.shape, dtype=dtype, device=x.device)
    step, wanted = 1, list(strides)
    for dim in sorted(range(x.ndim), key=lambda dim: strides[dim]):
        wanted[dim] = step
        step *= x.shape[dim]
    return torch.empty_strided(x.shape, wanted, dtype=dtype, device=x.device)


def broadcast(*shapes: torch.Size) -> tuple[int, ...]:
    """``torch.broadcast_shapes``, which also imports it, of shapes that do fit together."""
    backwards = zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    return tuple(max(sides) if all(sides) else 0 for sides in backwards)[::-1]


def _joined(parts: Sequence[Tensor], dim: int = 0) -> tuple[int, ...]:
    shape = list(parts[0].shape)
    shape[dim] = sum(part.shape[dim] for part in parts)
    return tuple(shape)


def _stacked(parts: Sequence[Tensor], dim: int = 0) -> tuple[int, ...]:
    shape = list(parts[0].shape)
    shape.insert(dim % (len(shape) + 1), len(parts))
    return tuple(shape)


def _linear(x: Tensor, weight: Tensor, *_: Any) -> tuple[int, ...]:
    return *x.shape[:-1], len(weight)


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Iterable[int],
    padding: Iterable[int],
    dilation: Iterable[int],
    *_: Any,
) -> tuple[int, ...]:
    sides = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    return (
        len(x),
        len(weight),
        *(
            (side + 2 * pad - gap * (size - 1) - 1) // step + 1
            for side, size, step, pad, gap in sides
        ),
    )


def _embedded(ids: Tensor, table: Tensor, *_: Any, **__: Any) -> tuple[int, ...]:
    return *ids.shape, table.shape[1]


def _reduced(x: Tensor, dim: int | tuple[int, ...] | None = None) -> tuple[int, ...]:
    if dim is None:
        return ()
    dims = {one % x.ndim for one in (dim if isinstance(dim, tuple) else (dim,))}
    return tuple(side for place, side in enumerate(x.shape) if place not in dims)


def _pooled(x: Tensor, kernel: int) -> tuple[int, ...]:
    return *x.shape[:2], *(side // kernel for side in x.shape[2:])


def _unshuffled(x: Tensor, factor: int) -> tuple[int, ...]:
    *before, channels, height, width = x.shape
    return *before, channels * factor**2, height // factor, width // factor


def _shuffled(x: Tensor, factor: int) -> tuple[int, ...]:
    *before, channels, height, width = x.shape
    return *before, channels // factor**2, height * factor, width * factor


def _resized(x: Tensor, *, scale_factor: int, **_: Any) -> tuple[int, ...]:
    return *x.shape[:2], *(side * scale_factor for side in x.shape[2:])


def _multiplied(a: Tensor, b: Tensor) -> tuple[int, ...]:
    return *broadcast(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]


def _gathered(_x: Tensor, _dim: int, index: Tensor) -> tuple[int, ...]:
    return tuple(index.shape)


def _attended(queries: Tensor, keys: Tensor, values: Tensor, **_: Any) -> tuple[int, ...]:
    return *queries.shape[:-1], values.shape[-1]


SHAPES: dict[Callable[..., Any], Callable[..., tuple[int, ...]]] = {
    F.linear: _linear,
    F.conv1d: _convolved,
    F.conv2d: _convolved,
    F.conv3d: _convolved,
    F.embedding: _embedded,
    Tensor.any: _reduced,
    Tensor.amax: _reduced,
    Tensor.sum: _reduced,
    Tensor.gather: _gathered,
    Tensor.matmul: _multiplied,
    Tensor.__matmul__: _multiplied,
    F.avg_pool2d: _pooled,
    F.interpolate: _resized,
    F.pixel_unshuffle: _unshuffled,
    F.pixel_shuffle: _shuffled,
    F.scaled_dot_product_attention: _attended,
    torch.cat: _joined,
    torch.stack: _stacked,
}

"""A large grid tile by tile, with overlaps in which two tiles are blended."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Span = tuple[int, int]  # start and end along a side of the grid


def blend(
    run: Callable[[Span, Span], Tensor],
    *,
    height: int,
    width: int,
    tile: int,
    overlap: int,
    scale: int,
) -> Tensor:
    """Weighted sum of tiles, each with less weight the closer its shared edge is.

    Args:
        run: (rows, columns) of a grid -> their part of the result, [..., rows, columns] times
            ``scale``.
        height: of the grid.
        width: of the grid.
        tile: side of a square tile. A side of the grid below it is not cut.
        overlap: what two neighbours share, at most half a tile.
        scale: values of the result per cell of the grid.
    """
    whole: Tensor | None = None
    for rows in spans(height, tile=tile, overlap=overlap):
        for columns in spans(width, tile=tile, overlap=overlap):
            part = run(rows, columns)
            if whole is None:
                whole = part.new_zeros(*part.shape[:-2], height * scale, width * scale)
            for dim, span, side in ((-2, rows, height), (-1, columns, width)):
                share = _shares(span, side=side, length=overlap * scale, scale=scale).to(part)
                part = part * (share[:, None] if dim == -2 else share)
            (top, bottom), (left, right) = rows, columns
            whole[..., top * scale : bottom * scale, left * scale : right * scale] += part
    assert whole is not None
    return whole


def spans(side: int, *, tile: int, overlap: int) -> Iterator[Span]:
    """Tiles along one side; the last one ends with it and is longer than ``overlap``."""
    start = 0
    while start + tile < side:
        yield start, start + tile
        start += tile - overlap
    yield start, side


def _shares(span: Span, *, side: int, length: int, scale: int) -> Tensor:
    """A tile's weights along one side: linear over the overlaps, which sum to 1, else 1."""
    start, end = span
    shares = torch.ones((end - start) * scale)
    rise = (torch.arange(length) + 0.5) / max(length, 1)
    if start:
        shares[:length] = rise
    if end < side:
        shares[len(shares) - length :] = rise.flip(0)
    return shares

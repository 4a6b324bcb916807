"""A fully convolutional network on frames that are too large for one call.

Shape letters: B clips, T frames, H W height and width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isqrt

from torch import Tensor

from models.nn.blend import Span, blend
from models.nn.unet_inputs import UNetInputs

Network = Callable[[Tensor, Tensor, UNetInputs], Tensor]
OVERLAP = 64  # pixels, where half a tile is no less


@dataclass(frozen=True)
class Tile:
    """Side of a square tile and what two neighbours share, in pixels."""

    side: int
    overlap: int


def tile_of(frames: int, *, most_pixels: int, stride: int) -> Tile:
    """The largest tile of a clip that keeps one call within a number of pixels.

    Args:
        frames: of the clip; all of them pass the network at once.
        most_pixels: of a call, over all frames.
        stride: of the network; side and overlap are multiples of it.

    Raises:
        ValueError: if not even one stride fits.
    """
    side = isqrt(most_pixels // frames) // stride * stride
    if not side:
        raise ValueError(
            f"frames={frames} of {stride}x{stride} pixels, wanted at most {most_pixels} in all"
        )
    return Tile(side=side, overlap=min(OVERLAP, side // 2) // stride * stride)


def tiled(
    network: Network,
    x_B3THW: Tensor,
    t_B: Tensor,
    inputs: UNetInputs,
    *,
    stride: int,
    tile: Tile,
) -> Tensor:
    """The network's output tile by tile, blended over the overlaps.

    It is what the whole frame gives but for the norms, which see a tile, as they see a crop in
    training, and for what reaches in from beyond an overlap.

    Args:
        network: without attention over positions.
        x_B3THW: noisy pixels.
        t_B: times.
        inputs: captions, levels and rates per clip; clips of the size of ``x_B3THW``.
        stride: of the network.
        tile: of multiples of the stride.

    Returns:
        [B, 3, T, H, W] or 6 channels with a learned variance.

    Raises:
        ValueError: if the tiles do not fit the network's stride.
    """
    side, overlap = tile.side, tile.overlap
    if side % stride or overlap % stride or 2 * overlap > side:
        raise ValueError(
            f"tile={side} and overlap={overlap}, wanted multiples of {stride}, overlap at most "
            "half a tile"
        )

    def cut(x: Tensor | None, rows: Span, columns: Span) -> Tensor | None:
        return None if x is None else x[..., slice(*rows), slice(*columns)]

    def run(rows: Span, columns: Span) -> Tensor:
        part = replace(
            inputs,
            low_resolution_BCTHW=cut(inputs.low_resolution_BCTHW, rows, columns),
            given_BCTHW=cut(inputs.given_BCTHW, rows, columns),
        )
        return network(x_B3THW[..., slice(*rows), slice(*columns)], t_B, part)

    height, width = x_B3THW.shape[-2:]
    return blend(run, height=height, width=width, tile=side, overlap=overlap, scale=1)

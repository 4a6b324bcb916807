"""A fully convolutional network on frames that are too large for one call.

Shape letters: B clips, T frames, H W height and width.
"""

from dataclasses import replace

from torch import Tensor

from models.nn.blend import Span, blend
from models.nn.unet import SpaceTimeUNet
from models.nn.unet_inputs import UNetInputs

TILE = 512  # pixels
OVERLAP = 64  # pixels


def tiled(
    unet: SpaceTimeUNet,
    x_B3THW: Tensor,
    t_B: Tensor,
    inputs: UNetInputs,
    *,
    tile: int = TILE,
    overlap: int = OVERLAP,
) -> Tensor:
    """The network's output tile by tile, clip by clip, blended over the overlaps.

    It is what the whole frame gives but for the norms, which see a tile, as they see a crop in
    training, and for what reaches in from beyond an overlap.

    Args:
        unet: without attention over positions.
        x_B3THW: noisy pixels.
        t_B: times.
        inputs: captions, levels and rates per clip; clips of the size of ``x_B3THW``.
        tile: side of a square tile, pixels, a multiple of the network's stride.
        overlap: pixels that two neighbours share, a multiple of the stride.

    Returns:
        [B, 3, T, H, W] or 6 channels with a learned variance.

    Raises:
        ValueError: if the tiles do not fit the network's stride.
    """
    stride = unet.config.stride
    if tile % stride or overlap % stride or 2 * overlap > tile:
        raise ValueError(
            f"tile={tile} and overlap={overlap}, wanted multiples of {stride}, overlap at most "
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
        return unet(x_B3THW[..., slice(*rows), slice(*columns)], t_B, part)

    height, width = x_B3THW.shape[-2:]
    return blend(run, height=height, width=width, tile=tile, overlap=overlap, scale=1)

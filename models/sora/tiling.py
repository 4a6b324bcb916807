"""Large frames through the autoencoder tile by tile, in memory that a tile's size bounds.

A value outside the overlaps is at least ``overlap`` pixels from every edge that its tile does not
share with the frame. No layer of the autoencoder pools over a frame (its norms are per position),
so a value depends on a neighbourhood only: up to R pixels in each direction, where every 3x3
convolution adds the side of one cell of its grid. With 4 levels, 2 blocks per level and
``space_factor`` 8, R is 68 for the encoder and 75 for the decoder. With ``overlap`` >= R everything
outside the overlaps is as the whole frame gives it; inside them two tiles are blended, each with
less weight the closer its edge is.

Shape letters: B clips, C latent channels, T H W frames, height and width (pixels in *_B3THW,
latent grid in *_BCTHW).
"""

import torch
from torch import Tensor

from models.nn.blend import Span, blend
from models.sora.autoencoder import Posterior, VideoAutoencoder


def encode_tiled(
    autoencoder: VideoAutoencoder, x_B3THW: Tensor, *, tile: int, overlap: int
) -> Posterior:
    """Posterior of large frames; mean and log-variance are both blended linearly.

    Args:
        autoencoder: the network; each tile passes it in chunks of frames.
        x_B3THW: pixels in [-1, 1], [B, 3, T, H, W].
        tile: side of a square tile, pixels. A side of the frame below it is not cut.
        overlap: pixels that two neighbours share, at most half a tile.

    Returns:
        Mean and log-variance [B, C, T', H', W'], float32, equal to ``autoencoder.encode`` where
        one tile covers the frame.

    Raises:
        ValueError: if the clip or the tiles do not divide into whole latents.
    """
    factor = autoencoder.config.space_factor
    _check(tile=tile, overlap=overlap, factor=factor)
    autoencoder.latent_shape(*x_B3THW.shape[2:])

    def encode(rows: Span, columns: Span) -> Tensor:
        (top, bottom), (left, right) = rows, columns
        posterior = autoencoder.encode_chunked(
            x_B3THW[..., top * factor : bottom * factor, left * factor : right * factor]
        )
        return torch.cat([posterior.mean, posterior.logvar], dim=1)

    height, width = (side // factor for side in x_B3THW.shape[-2:])
    moments = blend(
        encode, height=height, width=width, tile=tile // factor, overlap=overlap // factor, scale=1
    )
    mean, logvar = moments.chunk(2, dim=1)
    return Posterior(mean=mean, logvar=logvar)


def decode_tiled(
    autoencoder: VideoAutoencoder, z_BCTHW: Tensor, *, tile: int, overlap: int
) -> Tensor:
    """Pixels of large frames.

    Args:
        autoencoder: the network; each tile passes it a latent frame at a time.
        z_BCTHW: latents that are not normalised, [B, C, T, H, W].
        tile: side of a square tile, pixels. A side of the frame below it is not cut.
        overlap: pixels that two neighbours share, at most half a tile.

    Returns:
        [B, 3, T', H', W'], float32, equal to ``autoencoder.decode`` where one tile covers the
        frame.

    Raises:
        ValueError: if the tiles do not divide into whole latents.
    """
    factor = autoencoder.config.space_factor
    _check(tile=tile, overlap=overlap, factor=factor)

    def decode(rows: Span, columns: Span) -> Tensor:
        return autoencoder.decode_chunked(z_BCTHW[..., slice(*rows), slice(*columns)])

    height, width = z_BCTHW.shape[-2:]
    return blend(
        decode,
        height=height,
        width=width,
        tile=tile // factor,
        overlap=overlap // factor,
        scale=factor,
    )


def _check(*, tile: int, overlap: int, factor: int) -> None:
    if tile < 1 or tile % factor:
        raise ValueError(f"tile={tile}, wanted a multiple of {factor} above 0")
    if overlap < 0 or overlap % factor or 2 * overlap > tile:
        raise ValueError(
            f"overlap={overlap}, wanted a multiple of {factor} from 0 to half of tile={tile}"
        )

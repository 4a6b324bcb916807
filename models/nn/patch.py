"""Latent grids to tokens and back.

Shape letters: B clips, C channels, T H W latent grid, N tokens = T/pt * H/ph * W/pw,
F features of a token = C * pt * ph * pw.
"""

from torch import Tensor

Triple = tuple[int, int, int]


def token_grid(size: Triple, *, patch: Triple) -> Triple:
    """Patches along time, height and width.

    Raises:
        ValueError: if a side of ``size`` is not a multiple of the patch.
    """
    if any(side % step for side, step in zip(size, patch, strict=True)):
        raise ValueError(
            f"latents of {list(size)} (frames, height, width), wanted multiples of "
            f"patch={list(patch)}"
        )
    return size[0] // patch[0], size[1] // patch[1], size[2] // patch[2]


def patchify(x_BCTHW: Tensor, *, patch: Triple) -> Tensor:
    """Cuts a grid into non-overlapping boxes, one token each.

    Returns:
        [B, N, F]; tokens in (time, height, width) order, features in (channel, time, height,
        width) order.

    Raises:
        ValueError: if a side is not a multiple of the patch.
    """
    batch, channels, frames, height, width = x_BCTHW.shape
    t, h, w = token_grid((frames, height, width), patch=patch)
    pt, ph, pw = patch
    boxes = x_BCTHW.reshape(batch, channels, t, pt, h, ph, w, pw)
    return boxes.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, t * h * w, -1)


def unpatchify(x_BNF: Tensor, *, grid: Triple, patch: Triple) -> Tensor:
    """The inverse of ``patchify``; ``grid`` counts patches. Returns [B, C, T, H, W]."""
    (t, h, w), (pt, ph, pw) = grid, patch
    boxes = x_BNF.reshape(x_BNF.shape[0], t, h, w, -1, pt, ph, pw)
    return boxes.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(x_BNF.shape[0], -1, t * pt, h * ph, w * pw)

"""Several clips beside each other: as tiles of one size, at one rate, with captions."""

# Shape letters in this file:
#   T frames   H height   W width   C channels (3, RGB)

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from numpy.typing import NDArray

from orchestrator.train.video import Pixels, enlarged, gif_bytes, mp4_bytes, png_bytes

_GAP = 2
_CAPTION_PIXELS = 11
BACKGROUND = 24  # of 255, on all three channels
_TILE_SIDE = 256  # pixels of the longer side of a clip beside others, at most
_CANVAS_SIDE = 4096  # pixels of a sheet, at most: what every H.264 player decodes
_LATE = 0.05  # frames by which one may be shown too early: recipes round their rates


def sheet(
    clips: Sequence[Pixels], *, captions: Sequence[str], fps: float, columns: int | None = None
) -> dict[str, bytes]:
    """Captioned clips beside each other as files: mp4, gif, and the middle frame as png."""
    shown_THWC = grid(clips, captions=captions, columns=columns)
    return {
        "mp4": mp4_bytes(shown_THWC, fps=fps, scale=1),
        "gif": gif_bytes(shown_THWC, fps=fps, scale=1),
        "png": png_bytes(shown_THWC[len(shown_THWC) // 2]),
    }


def grid(
    clips: Sequence[Pixels], *, captions: Sequence[str] = (), columns: int | None = None
) -> Pixels:
    """Several clips beside each other as one clip.

    Args:
        clips: each [T, H, W, 3] uint8, of one height and width; a shorter one stays on its
            last frame.
        captions: one text under each clip, cut to its width; clips are then shown as tiles (see
            ``tile``).
        columns: clips in a row; default: about as many as rows.

    Returns:
        [T, H', W', 3] uint8, H' and W' at most 4096: the last clips are left out if there are too
        many. Without captions every clip keeps its pixels as they are.

    Raises:
        ValueError: if there is no clip, sizes differ, or captions are not one per clip.
    """
    if not clips:
        raise ValueError("no clips, wanted at least one")
    sizes = {clip_THWC.shape[1:] for clip_THWC in clips}
    if len(sizes) > 1:
        raise ValueError(f"clips of sizes {sorted(sizes)}, wanted one size")
    if captions and len(captions) != len(clips):
        raise ValueError(f"{len(captions)} captions for {len(clips)} clips")
    tiles = [tile(clip) if captions else enlarged(clip, scale=1) for clip in clips]
    frames = max(len(one) for one in tiles)
    tiles = [_lengthened(one, frames=frames) for one in tiles]
    tiles = [captioned(one, text=text) for one, text in zip(tiles, captions, strict=False)] or (
        tiles
    )
    _, height, width, _ = tiles[0].shape
    columns = min(columns or math.ceil(math.sqrt(len(tiles))), _fitting(width))
    rows = min(math.ceil(len(tiles) / columns), _fitting(height))
    return beside(tiles[: rows * columns], columns=columns)


def beside(tiles: Sequence[Pixels], *, columns: int) -> Pixels:
    """Clips [T, H, W, 3] of one shape in rows of so many, with gaps: [T, H', W', 3] uint8."""
    frames, height, width, channels = tiles[0].shape
    rows = math.ceil(len(tiles) / columns)
    canvas = np.full(
        (frames, rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels),
        BACKGROUND,
        dtype=np.uint8,
    )
    for position, one in enumerate(tiles):
        row, column = divmod(position, columns)
        top, left = row * (height + _GAP), column * (width + _GAP)
        canvas[:, top : top + height, left : left + width] = one
    return canvas


def _fitting(side: int) -> int:
    """How many tiles fit a canvas along a side."""
    return max(1, (_CANVAS_SIDE + _GAP) // (side + _GAP))


def tile_size(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a clip beside others: the longer side is above 128 and at most 256.

    Small clips are enlarged by a whole factor, and a tile's own tile is the tile itself.
    """
    longer = max(size)
    if longer <= _TILE_SIDE:
        factor = _TILE_SIDE // longer
        return size[0] * factor, size[1] * factor
    height, width = (max(1, round(side * _TILE_SIDE / longer)) for side in size)
    return height, width


def tile(clip_THWC: Pixels) -> Pixels:
    """A clip as it is shown beside others, [T, h, w, 3]: see ``tile_size``.

    Raises:
        ValueError: as ``write_mp4``.
    """
    enlarged(clip_THWC, scale=1)  # checks it
    height, width = clip_THWC.shape[1:3]
    return _resized(clip_THWC, size=tile_size((height, width)))


def _resized(clip_THWC: Pixels, *, size: tuple[int, int]) -> Pixels:
    """Pixels repeated where there are fewer, mean colours of areas where there are more."""
    height, width = clip_THWC.shape[1:3]
    if size[0] >= height and size[1] >= width:
        rows, columns = (
            np.arange(size[0]) * height // size[0],
            np.arange(size[1]) * width // size[1],
        )
        return clip_THWC[:, rows][:, :, columns]
    box = PIL.Image.Resampling.BOX
    frames = [PIL.Image.fromarray(one).resize((size[1], size[0]), box) for one in clip_THWC]
    return np.stack([np.asarray(one) for one in frames])


def same_size(clips: Sequence[Pixels], *, fps: Sequence[float]) -> list[Pixels]:
    """Clips of one scene as tiles of the largest one's size, at the highest rate.

    Each shows the latest of its frames whose time has come, and stays on its last one.

    Args:
        clips: uint8 [T, H, W, 3] each, of one aspect, starting together.
        fps: of each clip.
    """
    highest = max(fps)
    length = max(
        math.floor((len(clip) - 1) * highest / rate + _LATE) + 1
        for clip, rate in zip(clips, fps, strict=True)
    )
    height, width = (max(clip.shape[dim] for clip in clips) for dim in (1, 2))
    size = tile_size((height, width))
    return [
        _resized(clip, size=size)[_places(length, step=rate / highest, frames=len(clip))]
        for clip, rate in zip(clips, fps, strict=True)
    ]


def _places(length: int, *, step: float, frames: int) -> NDArray[np.int64]:
    """Which frame is shown at each time."""
    return np.minimum(np.floor(np.arange(length) * step + _LATE).astype(np.int64), frames - 1)


def _lengthened(clip_THWC: Pixels, *, frames: int) -> Pixels:
    missing = frames - len(clip_THWC)
    return np.pad(clip_THWC, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")


def captioned(clip_THWC: Pixels, *, text: str) -> Pixels:
    """A clip [T, H, W, 3] with a line of text below, cut to its width: 22 rows more."""
    frames, _, width, channels = clip_THWC.shape
    font = PIL.ImageFont.load_default(_CAPTION_PIXELS)
    image = PIL.Image.new("RGB", (width, 2 * _CAPTION_PIXELS), (BACKGROUND,) * 3)
    draw = PIL.ImageDraw.Draw(image)
    while text and draw.textlength(text, font=font) > width - 8:
        text = text[:-1]
    draw.text((4, _CAPTION_PIXELS), text, font=font, fill=(255, 255, 255), anchor="lm")
    band_HWC = np.asarray(image)
    band_THWC = np.broadcast_to(band_HWC, (frames, *band_HWC.shape))
    assert band_HWC.shape[1:] == (width, channels)
    return np.concatenate([clip_THWC, band_THWC], axis=1)

"""Which part of a stored clip training sees: frames in time, pixels in space, by arithmetic alone.

Stored frames are taken to be evenly spaced.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_FASTER = 1.05  # than the clip, that a window's rate may be: 25 frames of 24 are hardly seen


def window_draw(slot: int, *, seed: int, position: int) -> float:
    """The draw in [0, 1) that places the window of a slot's clip; a pure function of all three.

    Args:
        slot: of the global batch.
        seed: of the order.
        position: of the batch in the order of data.
    """
    digest = hashlib.blake2b(
        repr((seed, "window", position, slot)).encode(), digest_size=8
    ).digest()
    return (int.from_bytes(digest, "little") >> 11) / 2**53


def is_too_slow(stored_fps: float, *, fps: float) -> bool:
    """Whether a clip has too few frames per second to be seen at a rate."""
    return fps > stored_fps * _FASTER


def num_windows(frames: int, *, fps: float, stored: int, stored_fps: float) -> int:
    """How many stored frames a window may begin with: the first of them, and so many in all.

    Args:
        frames: of the window.
        fps: frames per second that they stand for.
        stored: frames of the clip.
        stored_fps: frames per second of the clip.

    Raises:
        ValueError: if none fits: the clip is too short, or has too few frames per second.
    """
    if frames > 1 and is_too_slow(stored_fps, fps=fps):
        raise ValueError(f"{stored_fps:g} frames per second, wanted at least {fps:g}")
    span = int(_offsets(frames, fps=fps, stored_fps=stored_fps)[-1]) + 1
    if stored < span:
        raise ValueError(
            f"{stored} frames at {stored_fps:g} fps, wanted at least {span} to take {frames} at "
            f"{fps:g} fps from"
        )
    return stored - span + 1


def window_frames(
    draw: float, *, frames: int, fps: float, stored: int, stored_fps: float
) -> NDArray[np.int64]:
    """Numbers of the stored frames that are nearest in time to those of a window, [T].

    Args:
        draw: in [0, 1); all first frames that leave room for the window are equally likely.
        frames: T; the other arguments too are as for ``num_windows``.

    Raises:
        ValueError: as ``num_windows``.
    """
    count = num_windows(frames, fps=fps, stored=stored, stored_fps=stored_fps)
    return int(draw * count) + _offsets(frames, fps=fps, stored_fps=stored_fps)


def _offsets(frames: int, *, fps: float, stored_fps: float) -> NDArray[np.int64]:
    return np.floor(np.arange(frames) * stored_fps / fps + 0.5).astype(np.int64)


@dataclass(frozen=True)
class Crop:
    """Pixels: scale to ``height`` x ``width``, then take the bucket's from ``top`` and ``left``."""

    height: int
    width: int
    top: int
    left: int


def cover(stored: tuple[int, int], *, size: tuple[int, int]) -> Crop:
    """The smallest picture of a stored one's aspect that covers a size, and the middle of it.

    Args:
        stored: height and width of the clip.
        size: height and width that are wanted.

    Raises:
        ValueError: if the clip would have to be enlarged.
    """
    height, width = stored
    if height < size[0] or width < size[1]:
        raise ValueError(f"{height}x{width} pixels, wanted at least {size[0]}x{size[1]}")
    if size[0] * width >= size[1] * height:
        scaled = (size[0], _divided(width * size[0], height))
    else:
        scaled = (_divided(height * size[1], width), size[1])
    return Crop(
        height=scaled[0],
        width=scaled[1],
        top=(scaled[0] - size[0]) // 2,
        left=(scaled[1] - size[1]) // 2,
    )


def _divided(whole: int, part: int) -> int:
    """Rounded, halves up."""
    return (2 * whole + part) // (2 * part)

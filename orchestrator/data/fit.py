"""Frames at the size of a bucket: scaled to cover it, then cropped to the middle of it."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.window import cover

Fit = Callable[[Any], NDArray[np.uint8]]  # a PyAV frame to its pixels, [H, W, 3]


def fit_to(size: tuple[int, int], *, stored: tuple[int, int]) -> Fit:
    """What turns decoded frames of one size into pixels of another.

    Scaling is bilinear with antialiasing, as pixel networks shrink clips; colours are scaled as
    finely as brightness. A frame that need not be scaled has the pixels that ``decode`` gives.

    Args:
        size: height and width that are wanted.
        stored: height and width of the frames.

    Returns:
        A function for one thread; it raises ValueError for a frame of another size.

    Raises:
        ValueError: if frames would have to be enlarged.
    """
    from av.video.reformatter import Interpolation, VideoReformatter

    crop = cover(stored, size=size)
    rows, columns = (
        slice(first, first + side) for first, side in zip((crop.top, crop.left), size, strict=True)
    )
    # The last three keep colours at full resolution and sums unbiased: half as slow again.
    how = (
        Interpolation.BILINEAR
        | Interpolation.FULL_CHR_H_INP
        | Interpolation.FULL_CHR_H_INT
        | Interpolation.ACCURATE_RND
    )
    if (crop.height, crop.width) == stored:
        how = None  # as decode does
    scaler = VideoReformatter()  # keeps its tables from frame to frame

    def fit(frame: Any) -> NDArray[np.uint8]:
        seen = (frame.height, frame.width)
        if seen != stored:
            raise ValueError(f"a frame of {_sides(seen)} pixels, wanted {_sides(stored)}")
        scaled = scaler.reformat(
            frame,
            width=crop.width,
            height=crop.height,
            format="rgb24",
            interpolation=how,
            threads=1,
        )
        return scaled.to_ndarray().astype(np.uint8, copy=False)[rows, columns]

    return fit


def fit_array(frames_THWC: NDArray[np.uint8], *, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Frames that are an array, [T, H, W, 3], as ``fit_to`` would have them; always a copy.

    Raises:
        ValueError: if they would have to be enlarged.
    """
    from av import VideoFrame

    stored = (frames_THWC.shape[1], frames_THWC.shape[2])
    fit = fit_to(size, stored=stored)
    return np.stack([fit(VideoFrame.from_ndarray(one, format="rgb24")) for one in frames_THWC])


def _sides(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"

"""A sample's members as what training sees of it: a window in time, resized and cropped."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.decode import decode, video_shape
from orchestrator.data.fit import fit_array, fit_to
from orchestrator.data.index import Sample
from orchestrator.data.npy import Buffer
from orchestrator.data.seek import frames_at
from orchestrator.data.window import num_windows, window_frames

_FRAMES = "frames"
_LAST_DRAW = 1 - 2**-53


def has_one_window(sample: Sample) -> bool:
    """Whether every draw gives the same arrays: all of a clip, or its only window.

    Raises:
        ValueError: if the clip is too short for its bucket.
    """
    return not sample.is_windowed or num_windows(**_in_time(sample)) == 1


def window_of(sample: Sample, raw: Mapping[str, Buffer], *, draw: float) -> dict[str, Any]:
    """A sample's arrays by name, ``frames`` in the shape of its bucket; others as they are stored.

    Args:
        sample: as the index knows it.
        raw: the members that are arrays, by extension.
        draw: in [0, 1); places the window in time.

    Raises:
        ValueError: if a member cannot be decoded, is not what the index says, or is too short or
            too small for its bucket.
    """
    numbers = window_frames(draw, **_in_time(sample))
    arrays: dict[str, Any] = {}
    for ext, data in raw.items():
        arrays |= _member(sample, ext, data, numbers=numbers)
    return arrays


def check_windows(sample: Sample, raw: Mapping[str, Buffer]) -> None:
    """Decodes all that is stored of a sample, and its first and last window; keeps nothing.

    Raises:
        ValueError: as ``window_of``; the text begins with the key.
    """
    try:
        for ext, data in raw.items():
            if ext.rpartition(".")[2] == "mp4" and (seen := video_shape(data)) != sample.stored:
                raise ValueError(f"frames are {seen}, wanted {sample.stored}")
        for draw in (0.0, _LAST_DRAW):
            window_of(sample, raw, draw=draw)
    except ValueError as error:
        raise ValueError(f"{sample.key} cannot be decoded: {error}") from None


def _member(
    sample: Sample, ext: str, data: Buffer, *, numbers: NDArray[np.int64]
) -> dict[str, Any]:
    size, stored = sample.bucket[1:], sample.stored[1:]
    if ext.rpartition(".")[2] == "mp4":
        fit = fit_to(size, stored=stored)
        frames = frames_at()(data, numbers=numbers.tolist(), stored=sample.stored[0], fit=fit)
        return {_FRAMES: np.stack(frames)}
    arrays = decode({ext: data})  # of an .npy file nothing is copied yet
    if _FRAMES in arrays:
        frames_THWC = arrays[_FRAMES]
        wanted = (*sample.stored, 3)
        if frames_THWC.shape != wanted or frames_THWC.dtype != np.uint8:
            seen = f"{frames_THWC.dtype} {frames_THWC.shape}"
            raise ValueError(f"frames are {seen}, wanted uint8 {wanted}")
        arrays[_FRAMES] = fit_array(frames_THWC[numbers], size=size)
    return arrays


def _in_time(sample: Sample) -> dict[str, Any]:
    return {
        "frames": sample.bucket[0],
        "fps": sample.fps,
        "stored": sample.stored[0],
        "stored_fps": sample.stored_fps,
    }

"""From a member's bytes to arrays, by its extension."""

import io
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.npy import Buffer, npy_view

_KINDS = ("npz", "npy", "mp4")
_NO_NPY = (EOFError, MemoryError, tokenize.TokenError)  # a header may claim any size
_NO_NPZ = (*_NO_NPY, zipfile.BadZipFile, zlib.error, RuntimeError)  # an unknown kind of zip


@lru_cache(1024)  # asked for every member of every sample
def is_array(ext: str) -> bool:
    """Whether a member is for ``decode``; all others (``json``, ``txt``) are for other readers."""
    return ext.rpartition(".")[2] in _KINDS


@lru_cache(1024)
def name_of(ext: str) -> str:
    """The array that an ``.npy`` member gives: ``NAME.npy`` gives NAME, ``npy`` alone frames."""
    return ext.rpartition(".")[0] or "frames"


def decode(members: Mapping[str, Buffer]) -> dict[str, Any]:
    """Arrays of one sample by name.

    ``npz``: every array under its name (``frames``: uint8 [T, H, W, 3]). ``mp4``: ``frames``.
    ``NAME.npy``: the array under NAME, ``npy`` alone: ``frames``.

    Raises:
        ValueError: if an extension is none of these, or the bytes are not what it says.
    """
    arrays: dict[str, Any] = {}
    for ext, data in members.items():
        match ext.rpartition(".")[2]:
            case "npz":
                arrays.update(_npz(data))
            case "npy":
                arrays[name_of(ext)] = npy_view(data)
            case "mp4":
                arrays["frames"] = _frames(data)
            case _:
                raise ValueError(f"member .{ext}, wanted npz, npy or mp4")
    return arrays


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array as an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(**arrays: NDArray[Any]) -> bytes:
    """Arrays as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _npz(data: Buffer) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            return {
                # Writable, as torch wants what it makes a tensor of.
                name.removesuffix(".npy"): npy_view(memoryview(bytearray(packed.read(name))))
                for name in packed.namelist()
            }
    except _NO_NPZ as error:
        raise ValueError(f"not an npz: {error}") from None


@contextmanager
def open_video(data: Buffer) -> Iterator[tuple[Any, Any]]:
    """A video's PyAV container and its first video stream, decoded by one thread.

    Raises:
        ValueError: if it is no video, also while it is read inside.
    """
    import av  # only sources of loose videos need it
    from av.error import FFmpegError

    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            stream = next(iter(container.streams.video), None)
            # A file that breaks off may name a stream and not say how it was coded.
            if stream is None or getattr(stream, "codec_context", None) is None:
                raise ValueError("no video stream")
            stream.codec_context.thread_count = 1
            yield container, stream
    except FFmpegError as error:
        raise ValueError(f"not a video: {error}") from None


def video_shape(data: Buffer) -> tuple[int, int, int]:
    """Frames, height and width of a video, all of which is decoded and none of it kept.

    Raises:
        ValueError: if it is no video, or frames are corrupt or differ in size.
    """
    sizes = Counter((frame.height, frame.width) for frame in _decoded(data))
    (height, width), *others = sizes
    if others:
        raise ValueError(f"frames of {len(sizes)} sizes, wanted one")
    return sizes.total(), height, width


def _frames(data: Buffer) -> NDArray[np.uint8]:
    from av.video.reformatter import VideoReformatter

    reformatter = VideoReformatter()  # one for all: preparing another for each frame costs a fifth
    frames = (reformatter.reformat(frame, format="rgb24", threads=1) for frame in _decoded(data))
    return np.stack([frame.to_ndarray() for frame in frames]).astype(np.uint8, copy=False)


def _decoded(data: Buffer) -> Iterator[Any]:
    """PyAV's frames of a video, at least one."""
    frame = None
    with open_video(data) as (container, stream):
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise ValueError("corrupt frames")
            yield frame
    if frame is None:
        raise ValueError("no frames")

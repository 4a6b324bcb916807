"""From a member's bytes to arrays, by its extension."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode(members: Mapping[str, bytes]) -> dict[str, Any]:
    """Arrays of one sample by name.

    ``npz``: every array under its name (``frames``: uint8 [T, H, W, 3]). ``mp4``: ``frames``.
    ``NAME.npy``: the array under NAME. ``json`` is for other readers and left alone.

    Raises:
        ValueError: if an extension is none of these.
    """
    arrays: dict[str, Any] = {}
    for ext, data in members.items():
        name, _, kind = ext.rpartition(".")
        match kind:
            case "npz":
                with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
                    arrays.update({key: loaded[key] for key in loaded.files})
            case "npy":
                arrays[name] = np.load(io.BytesIO(data), allow_pickle=False)
            case "mp4":
                arrays["frames"] = _frames(data)
            case "json":
                pass
            case _:
                raise ValueError(f"member .{ext}, wanted npz, npy, mp4 or json")
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


def _frames(data: bytes) -> NDArray[np.uint8]:
    import av  # only sources of loose videos need it

    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])

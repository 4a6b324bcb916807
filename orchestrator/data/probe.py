"""Frames, size and rate of a stranger's sample, without decoding all of a video."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from orchestrator.data.decode import decode, is_array, open_video
from orchestrator.data.index import Bucket


@dataclass(frozen=True)
class Probe:
    """What was found; ``fps`` is None where frames are an array."""

    bucket: Bucket
    fps: float | None


def probe(members: Mapping[str, bytes]) -> Probe:
    """Looks into the member with frames, the only one of its sample.

    Of a video the packets are counted and the first frame is decoded; arrays are all decoded.

    Args:
        members: bytes by extension; those that the reader does not decode are not looked at.

    Raises:
        ValueError: if no member or more than one has frames, or one cannot be decoded.
    """
    found: dict[str, Probe] = {}
    for ext, data in members.items():
        if ext.rpartition(".")[2] == "mp4":
            found[ext] = _named(ext, data)
        elif is_array(ext):
            arrays = decode({ext: data})
            if "frames" in arrays:
                found[ext] = Probe(bucket=_bucket(arrays["frames"]), fps=None)
    if len(found) != 1:
        seen = f"frames in {' and '.join(sorted(found))}" if found else "no frames"
        raise ValueError(f"{seen}, wanted them in one mp4, npz or npy")
    return next(iter(found.values()))


def _named(ext: str, data: bytes) -> Probe:
    try:
        return _video(data)
    except ValueError as error:
        raise ValueError(f"{ext}: {error}") from None


def _bucket(frames_THWC: np.ndarray) -> Bucket:
    shape = frames_THWC.shape
    if frames_THWC.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
        raise ValueError(f"frames are {frames_THWC.dtype} {list(shape)}, wanted uint8 [T, H, W, 3]")
    return shape[0], shape[1], shape[2]


def _video(data: bytes) -> Probe:
    frames = 0
    size: tuple[int, int] | None = None
    with open_video(data) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        for packet in container.demux(stream):
            # Edit lists leave packets out; the last one is empty and flushes the decoder.
            frames += bool(packet.size) and not packet.is_discard
            if size is None:
                size = next(((one.height, one.width) for one in packet.decode()), None)
    if size is None or not frames:
        raise ValueError("no frames")
    if not rate:
        raise ValueError("no frame rate")
    return Probe(bucket=(frames, *size), fps=float(rate))

"""Some frames of a video, without decoding what they do not need.

torchcodec decodes them where it is installed, PyAV elsewhere. Neither notices bit rot: hashes are
checked before.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from itertools import takewhile
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.decode import open_video
from orchestrator.data.fit import Fit
from orchestrator.data.npy import Buffer

_AT_ONCE = 16  # frames of full size that torchcodec holds
_ABSENT = (ImportError, OSError, RuntimeError)  # what a torchcodec that cannot be loaded raises


class FramesAt(Protocol):
    """Frames of a video by their numbers; ``pyav_frames`` says what the arguments are."""

    def __call__(
        self, data: Buffer, *, numbers: Sequence[int], stored: int, fit: Fit
    ) -> list[NDArray[np.uint8]]: ...


@cache
def frames_at() -> FramesAt:
    """The function for this machine: ``torchcodec_frames`` or ``pyav_frames``."""
    try:
        import_module("torchcodec.decoders")
    except _ABSENT:
        return pyav_frames
    return torchcodec_frames


def pyav_frames(
    data: Buffer, *, numbers: Sequence[int], stored: int, fit: Fit
) -> list[NDArray[np.uint8]]:
    """Frames of a video by their numbers, decoded by PyAV.

    The file's packets say at which time each frame is shown, whatever order they lie in. Decoding
    begins at the last keyframe that is not shown after the first wanted frame, and ends with the
    last. Where times are missing, or a frame does not come, all is decoded from the beginning.

    Args:
        data: the file.
        numbers: in order, from 0, in the order in which frames are shown.
        stored: frames that the file has.
        fit: what is made of each frame.

    Raises:
        ValueError: if it is no video, has another number of frames, or one that is needed is
            corrupt.
    """
    from av.error import FFmpegError  # only sources of videos need it

    with open_video(data) as (container, stream):
        packets = list(container.demux(stream))
        times = [one.pts for one in packets if one.size and not one.is_discard]
        if len(times) != stored:
            raise ValueError(f"{len(times)} frames, wanted {stored}")
        found: dict[int, NDArray[np.uint8]] = {}
        if None not in times and len(set(times)) == stored:
            with suppress(FFmpegError):  # decoding from the beginning has the last word
                found = _sought(stream, packets, times=sorted(times), numbers=numbers, fit=fit)
        if len(found) < len(set(numbers)):
            stream.codec_context.flush_buffers()
            stream.codec_context.skip_frame = "DEFAULT"
            found = _counted(stream, packets, numbers=numbers, fit=fit)
    return [found[number] for number in numbers]


def torchcodec_frames(
    data: Buffer, *, numbers: Sequence[int], stored: int, fit: Fit
) -> list[NDArray[np.uint8]]:
    """As ``pyav_frames``, by torchcodec; PyAV has the last word on files that it does not like."""
    from av import VideoFrame

    decoders: Any = import_module("torchcodec.decoders")
    try:
        decoder = decoders.VideoDecoder(
            bytes(data), dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact"
        )
        if len(decoder) != stored:
            return pyav_frames(data, numbers=numbers, stored=stored, fit=fit)
        parts = [numbers[at : at + _AT_ONCE] for at in range(0, len(numbers), _AT_ONCE)]
        return [
            fit(VideoFrame.from_ndarray(frame_HWC, format="rgb24"))
            for part in parts
            for frame_HWC in decoder.get_frames_at(indices=list(part)).data.numpy()
        ]
    except (RuntimeError, ValueError):
        return pyav_frames(data, numbers=numbers, stored=stored, fit=fit)


def _sought(
    stream: Any, packets: Sequence[Any], *, times: Sequence[int], numbers: Sequence[int], fit: Fit
) -> dict[int, NDArray[np.uint8]]:
    """Frames by number from the nearest keyframe on; those that come whole."""
    wanted = {times[number]: number for number in numbers}
    first = min(wanted)
    keys = [at for at, one in enumerate(packets) if one.is_keyframe and _is_by(one, first)]
    found: dict[int, NDArray[np.uint8]] = {}
    if not keys:
        return found
    begin = packets[keys[-1]].pts
    # Frames that no other leans on are passed over. A keyframe is not: some decoders would then
    # pass over all such frames for good.
    needed = {begin, *wanted}
    for packet in packets[keys[-1] :]:
        stream.codec_context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
        for frame in packet.decode():
            # What is shown before the keyframe may lean on frames that were not decoded.
            if frame.pts is None or (frame.is_corrupt and frame.pts >= begin):
                return {}
            if frame.pts in wanted:
                found[wanted[frame.pts]] = fit(frame)
        if len(found) == len(wanted):
            break
    return found


def _is_by(packet: Any, time: int) -> bool:
    return packet.pts is not None and packet.pts <= time


def _counted(
    stream: Any, packets: Sequence[Any], *, numbers: Sequence[int], fit: Fit
) -> dict[int, NDArray[np.uint8]]:
    """Frames by number, all decoded from the first to the last of them."""
    decoded = (frame for packet in packets for frame in packet.decode())
    found: dict[int, NDArray[np.uint8]] = {}
    wanted = set(numbers)
    for number, frame in takewhile(lambda one: one[0] <= max(wanted), enumerate(decoded)):
        if frame.is_corrupt:
            raise ValueError("corrupt frames")
        if number in wanted:
            found[number] = fit(frame)
    if len(found) < len(wanted):
        raise ValueError(f"fewer frames than it says, wanted number {max(wanted)}")
    return found

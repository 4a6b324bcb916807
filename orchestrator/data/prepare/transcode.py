"""Chosen clips as they are stored: H.264 with short groups of pictures, images without loss."""

# Shape letters in this file:
#   H height   W width   C channels (3, RGB)

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from orchestrator.data.decode import npz_bytes
from orchestrator.data.prepare.media import BrokenError, Frame, Pixels, decoded, image, scaled
from orchestrator.data.prepare.records import BROKEN, IMAGE, Chosen, Listed
from orchestrator.data.prepare.sampling import Window, at_times, every
from orchestrator.data.window import Crop, cover
from orchestrator.recipe.prepare import Bucket, Encoding

VERSION = 2


def encoded(
    row: Listed, clips: Sequence[Chosen], *, buckets: Sequence[Bucket], encoding: Encoding
) -> Iterator[tuple[Chosen, str, bytes]]:
    """Yields (clip, extension, bytes) of a video's chosen clips, in one pass.

    Frames are scaled to cover the bucket's size and cropped around their middle. Equal input gives
    equal bytes: one thread encodes.

    Raises:
        BrokenError: if the file is not what it was, or a frame is smaller than the bucket.
    """
    if row.kind == IMAGE:
        for clip in clips:
            bucket = buckets[_bucket(clip)]
            pixels_HWC = image(row.root, row.name, size=row.size)
            crop = _crop(pixels_HWC.shape[:2], size=bucket.size)
            picture_HWC = scaled(pixels_HWC, size=(crop.height, crop.width))
            frame_HWC = _cropped(picture_HWC, crop, size=bucket.size)
            yield clip, "npz", npz_bytes(frames=frame_HWC[None])
        return
    windows = [
        Window(number, every(clip.start_s, frames=clip.frames, fps=buckets[_bucket(clip)].fps))
        for number, clip in enumerate(clips)
    ]
    shown = at_times(decoded(row.root, row.name, size=row.size), windows)
    for number, group in groupby(shown, key=itemgetter(0)):
        bucket = buckets[_bucket(clips[number])]
        pictures = (_fitted(frame, size=bucket.size) for _, frame in group)
        data = mp4_of(pictures, size=bucket.size, fps=bucket.fps, encoding=encoding)
        yield clips[number], "mp4", data


def mp4_of(
    frames_HWC: Iterable[Pixels], *, size: tuple[int, int], fps: float, encoding: Encoding
) -> bytes:
    """Frames of a height and width, [H, W, 3] uint8, as an MP4 with its index in front."""
    rate = Fraction(fps).limit_denominator(1001)
    with tempfile.TemporaryDirectory(prefix="rushes-") as folder:  # faststart reads its own file
        path = Path(folder) / "clip.mp4"
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(str(path), "w", format="mp4", options=options) as container:
            stream = container.add_stream("libx264", rate=rate)
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            stream.options = {
                "crf": str(encoding.crf),
                "preset": encoding.preset,
                "g": str(encoding.gop),
                # It reads memory that nobody wrote where a row of blocks is no multiple of 16: the
                # same small clip would have other bytes each time.
                "mbtree": "0",
            }
            stream.codec_context.thread_count = 1
            # The matrix that swscale uses at any size; untagged, players guess it from the height.
            stream.codec_context.colorspace = Colorspace.ITU601
            stream.codec_context.color_range = ColorRange.MPEG
            for frame_HWC in frames_HWC:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return path.read_bytes()


def _fitted(frame: Frame, *, size: tuple[int, int]) -> Pixels:
    crop = _crop(frame.size, size=size)
    picture_HWC = frame.picture(size=(crop.height, crop.width))
    return _cropped(picture_HWC, crop, size=size)


def _crop(picture: tuple[int, int], *, size: tuple[int, int]) -> Crop:
    try:
        return cover(picture, size=size)
    except ValueError as error:  # a video may become smaller on its way
        raise BrokenError(BROKEN, f"a frame has {error}") from None


def _bucket(clip: Chosen) -> int:
    assert clip.bucket is not None, clip.key
    return clip.bucket


def _cropped(pixels_HWC: Pixels, crop: Crop, *, size: tuple[int, int]) -> Pixels:
    rows, columns = slice(crop.top, crop.top + size[0]), slice(crop.left, crop.left + size[1])
    return np.ascontiguousarray(pixels_HWC[rows, columns])

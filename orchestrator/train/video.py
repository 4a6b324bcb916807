"""Clips as files that people can look at: MP4, GIF and PNG."""

# Shape letters in this file:
#   T frames   H height   W width   C channels (3, RGB)

import io
import math
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
import PIL.Image
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_SHORT_SIDE = 256  # pixels that a small clip is enlarged to at least
_PALETTE_VALUES = 50_000_000  # that a GIF's palette is chosen from


def viewing_scale(size: tuple[int, int]) -> int:
    """Whole factor that brings the shorter of (height, width) to at least 256 pixels."""
    return max(1, math.ceil(_SHORT_SIDE / min(size)))


def write_mp4(
    file: str | Path | IO[bytes], clip_THWC: Pixels, *, fps: float, scale: int | None = None
) -> None:
    """H.264 in yuv420p with its index in front: plays in browsers and in MLflow's UI.

    Args:
        file: a path or a binary file.
        clip_THWC: [T, H, W, 3], uint8.
        fps: frames per second.
        scale: every pixel becomes a square of this side; default: ``viewing_scale``. An odd
            side is then continued by one pixel, as 4:2:0 wants even sides.

    Raises:
        ValueError: if the clip is not [T, H, W, 3] uint8 with a frame, or fps, scale not above 0.
    """
    frames_THWC = enlarged(clip_THWC, scale=scale)
    if fps <= 0:
        raise ValueError(f"fps={fps}, wanted more than 0")
    _, height, width, _ = frames_THWC.shape
    frames_THWC = np.pad(
        frames_THWC, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge"
    )
    if isinstance(file, str | Path):
        _encode(str(file), frames_THWC, fps=fps)
        return
    with tempfile.TemporaryDirectory() as folder:  # faststart reads its own file again
        path = Path(folder) / "clip.mp4"
        _encode(str(path), frames_THWC, fps=fps)
        file.write(path.read_bytes())


def mp4_bytes(clip_THWC: Pixels, *, fps: float, scale: int | None = None) -> bytes:
    """The file that ``write_mp4`` writes."""
    buffer = io.BytesIO()
    write_mp4(buffer, clip_THWC, fps=fps, scale=scale)
    return buffer.getvalue()


def write_gif(
    file: str | Path | IO[bytes], clip_THWC: Pixels, *, fps: float, scale: int | None = None
) -> None:
    """An endless GIF; one palette of 256 colours for all frames, without dithering.

    A GIF counts time in hundredths of a second: ``fps`` is rounded to what that allows.

    Raises:
        ValueError: as ``write_mp4``.
    """
    frames_THWC = enlarged(clip_THWC, scale=scale)
    if fps <= 0:
        raise ValueError(f"fps={fps}, wanted more than 0")
    # The palette is chosen from the clip before it was enlarged: same colours, fewer pixels.
    every = math.ceil(clip_THWC.size / _PALETTE_VALUES)
    whole = PIL.Image.fromarray(clip_THWC[::every].reshape(-1, clip_THWC.shape[2], 3))
    palette = whole.quantize(256, method=PIL.Image.Quantize.MEDIANCUT)
    images = [
        PIL.Image.fromarray(frame_HWC).quantize(palette=palette, dither=PIL.Image.Dither.NONE)
        for frame_HWC in frames_THWC
    ]
    images[0].save(
        file,
        format="GIF",
        save_all=True,
        append_images=images[1:],
        duration=max(20, round(100 / fps) * 10),
        loop=0,
    )


def gif_bytes(clip_THWC: Pixels, *, fps: float, scale: int | None = None) -> bytes:
    """The file that ``write_gif`` writes."""
    buffer = io.BytesIO()
    write_gif(buffer, clip_THWC, fps=fps, scale=scale)
    return buffer.getvalue()


def still_png(file: str | Path | IO[bytes], frame_HWC: Pixels, *, scale: int | None = None) -> None:
    """One frame, [H, W, 3] uint8, without loss.

    Raises:
        ValueError: as ``write_mp4``.
    """
    PIL.Image.fromarray(enlarged(frame_HWC[None], scale=scale)[0]).save(file, format="PNG")


def png_bytes(frame_HWC: Pixels) -> bytes:
    """One frame, [H, W, 3] uint8, as it is."""
    buffer = io.BytesIO()
    still_png(buffer, frame_HWC, scale=1)
    return buffer.getvalue()


def _encode(path: str, frames_THWC: Pixels, *, fps: float) -> None:
    rate = Fraction(fps).limit_denominator(1001)
    options = {"movflags": "+faststart"}
    with av.open(path, "w", format="mp4", options=options) as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.height, stream.width = frames_THWC.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": "16", "preset": "veryfast"}
        stream.codec_context.thread_count = 1
        # The matrix that swscale uses at any size; untagged, players guess it from the height.
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.MPEG
        for frame_HWC in frames_THWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def enlarged(clip_THWC: Pixels, *, scale: int | None) -> Pixels:
    """Every pixel becomes a square of this side; None: ``viewing_scale``.

    Raises:
        ValueError: if the clip is not [T, H, W, 3] uint8 with a frame, or the side is below 1.
    """
    if clip_THWC.dtype != np.uint8 or clip_THWC.ndim != 4 or clip_THWC.shape[-1] != 3:
        raise ValueError(
            f"clip {clip_THWC.dtype} {list(clip_THWC.shape)}, wanted uint8 [T, H, W, 3]"
        )
    if 0 in clip_THWC.shape:
        raise ValueError(f"clip {list(clip_THWC.shape)}, wanted at least one frame and pixel")
    factor = viewing_scale(clip_THWC.shape[1:3]) if scale is None else scale
    if factor < 1:
        raise ValueError(f"scale={factor}, wanted at least 1")
    return clip_THWC.repeat(factor, axis=1).repeat(factor, axis=2)

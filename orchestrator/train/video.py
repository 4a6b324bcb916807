"""Clips as files that people can look at: MP4, GIF, PNG and a grid of several clips."""

# Shape letters in this file:
#   T frames   H height   W width   C channels (3, RGB)

import io
import math
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from av.video.reformatter import ColorRange, Colorspace
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

_SHORT_SIDE = 256  # pixels that a small clip is enlarged to at least
_GAP = 2
_CAPTION_PIXELS = 11
_BACKGROUND = 24


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
    frames_THWC = _enlarged(clip_THWC, scale=scale)
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
    frames_THWC = _enlarged(clip_THWC, scale=scale)
    if fps <= 0:
        raise ValueError(f"fps={fps}, wanted more than 0")
    # The palette is chosen from the clip before it was enlarged: same colours, fewer pixels.
    whole = PIL.Image.fromarray(clip_THWC.reshape(-1, clip_THWC.shape[2], 3))
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
    PIL.Image.fromarray(_enlarged(frame_HWC[None], scale=scale)[0]).save(file, format="PNG")


def png_bytes(frame_HWC: Pixels) -> bytes:
    """One frame, [H, W, 3] uint8, as it is."""
    buffer = io.BytesIO()
    still_png(buffer, frame_HWC, scale=1)
    return buffer.getvalue()


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
        captions: one text under each clip, cut to its width; small clips are enlarged to have
            room for it.
        columns: clips in a row; default: about as many as rows.

    Returns:
        [T, H', W', 3] uint8. Without captions every clip keeps its pixels as they are.

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
    tiles = [_enlarged(clip, scale=None if captions else 1) for clip in clips]
    frames = max(len(tile) for tile in tiles)
    tiles = [_lengthened(tile, frames=frames) for tile in tiles]
    tiles = [_captioned(tile, text=text) for tile, text in zip(tiles, captions, strict=False)] or (
        tiles
    )
    columns = columns or math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    _, height, width, channels = tiles[0].shape
    canvas = np.full(
        (frames, rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels),
        _BACKGROUND,
        dtype=np.uint8,
    )
    for position, tile in enumerate(tiles):
        row, column = divmod(position, columns)
        top, left = row * (height + _GAP), column * (width + _GAP)
        canvas[:, top : top + height, left : left + width] = tile
    return canvas


def same_size(clips: Sequence[Pixels]) -> list[Pixels]:
    """Clips of one scene at the largest one's frames and size, pixels and frames repeated.

    Args:
        clips: uint8 [T, H, W, 3] each, of one length in seconds; sides divide the largest ones.
    """
    frames, height, width = (max(clip.shape[dim] for clip in clips) for dim in range(3))
    return [
        clip[np.arange(frames) * len(clip) // frames][
            :, np.arange(height) * clip.shape[1] // height
        ][:, :, np.arange(width) * clip.shape[2] // width]
        for clip in clips
    ]


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


def _enlarged(clip_THWC: Pixels, *, scale: int | None) -> Pixels:
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


def _lengthened(clip_THWC: Pixels, *, frames: int) -> Pixels:
    missing = frames - len(clip_THWC)
    return np.pad(clip_THWC, ((0, missing), (0, 0), (0, 0), (0, 0)), mode="edge")


def _captioned(clip_THWC: Pixels, *, text: str) -> Pixels:
    frames, _, width, channels = clip_THWC.shape
    font = PIL.ImageFont.load_default(_CAPTION_PIXELS)
    image = PIL.Image.new("RGB", (width, 2 * _CAPTION_PIXELS), (_BACKGROUND,) * 3)
    draw = PIL.ImageDraw.Draw(image)
    while text and draw.textlength(text, font=font) > width - 8:
        text = text[:-1]
    draw.text((4, _CAPTION_PIXELS), text, font=font, fill=(255, 255, 255), anchor="lm")
    band_HWC = np.asarray(image)
    band_THWC = np.broadcast_to(band_HWC, (frames, *band_HWC.shape))
    assert band_HWC.shape[1:] == (width, channels)
    return np.concatenate([clip_THWC, band_THWC], axis=1)

"""Videos whose frames say which they are."""

import io
from collections.abc import Mapping

import av
import numpy as np

BITS = 8
CELL = 16  # pixels of a bit


def numbered(frames: int, *, size: tuple[int, int] = (48, 128)) -> np.ndarray:
    """Frames [T, H, W, 3]: a texture that moves, above it the frame's number in black and white."""
    height, width = size
    texture = np.random.default_rng(0).integers(64, 192, (height, width, 3), dtype=np.uint8)
    film = np.stack(
        [np.roll(texture, (number // 2, 3 * number), (0, 1)) for number in range(frames)]
    )
    for number, frame in enumerate(film):
        bits = [255 * (number >> bit & 1) for bit in range(BITS)]
        frame[:CELL, : BITS * CELL] = np.repeat(bits, CELL)[None, :, None]
    return film


def number_of(frame: np.ndarray) -> int:
    """The number that is painted into a decoded frame."""
    cells = frame[:CELL, : BITS * CELL].reshape(CELL, BITS, CELL, 3).mean((0, 2, 3))
    return sum(1 << bit for bit, shade in enumerate(cells) if shade > 128)


def film_of(
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    options: Mapping[str, str] | None = None,
    rate: int = 24,
    container_format: str = "mp4",
) -> bytes:
    """Frames as a video."""
    buffer = io.BytesIO()
    with av.open(buffer, mode="w", format=container_format) as container:
        stream = container.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()

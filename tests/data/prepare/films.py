"""Small videos made on the spot, and what can be wrong with them."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import PIL.Image

Colour = tuple[int, int, int]

RED, GREEN, BLUE = (200, 40, 30), (30, 180, 60), (40, 60, 210)


def scene(
    number: int, *, frames: int, size: tuple[int, int] = (96, 128), colour: Colour = RED
) -> Iterator[np.ndarray]:
    """A textured ground of one colour with a bright square that moves; numbers differ."""
    random = np.random.Generator(np.random.Philox(key=number))
    height, width = size
    tiles = random.uniform(0.4, 1.0, size=(6, 8, 1))
    ground = np.kron(tiles, np.ones((-(-height // 6), -(-width // 8), 1)))[:height, :width]
    ground = (ground * np.array(colour)).astype(np.uint8)
    side = height // 4
    for frame in range(frames):
        picture = ground.copy()
        left = (number * 7 + frame * 4) % (width - side)
        picture[height // 3 : height // 3 + side, left : left + side] = 250
        yield picture


def film(
    path: Path,
    scenes: Sequence[Iterator[np.ndarray]],
    *,
    fps: int = 24,
    codec: str = "libx264",
    **options: str,
) -> Path:
    """Writes scenes one after the other; the container is the one of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = None
        for picture in (one for part in scenes for one in part):
            if stream is None:
                stream = container.add_stream(codec, rate=fps)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.options = {"crf": "16", "preset": "ultrafast", "g": "12"}
                stream.codec_context.thread_count = 1
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        assert stream is not None
        container.mux(stream.encode(None))
    return path


def one_scene(
    path: Path, number: int, *, seconds: float = 2.5, fps: int = 24, **more: object
) -> Path:
    """A film of one scene."""
    frames = round(seconds * fps)
    return film(path, [scene(number, frames=frames, **more)], fps=fps)  # pyright: ignore[reportArgumentType]


def photo(path: Path, number: int, *, size: tuple[int, int] = (300, 400)) -> Path:
    """A picture of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(next(scene(number, frames=1, size=size, colour=GREEN))).save(path)
    return path


def song(path: Path) -> Path:
    """An MP4 with sound and no picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        for number in range(8):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate = 8000
            frame.pts = number * 1024
            frame.time_base = Fraction(1, 8000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def broken_films(folder: Path, *, seconds: float = 6.0) -> dict[str, str]:
    """Writes a file of every way to be broken; returns the reason that each should get."""
    good = one_scene(folder / "whole.mp4", 1, seconds=seconds).read_bytes()
    frames = [scene(2, frames=round(seconds * 24))]
    fast = film(folder / "faststart.mp4", frames, movflags="+faststart").read_bytes()
    for name in ("whole.mp4", "faststart.mp4"):
        (folder / name).unlink()
    middle = len(fast) // 2
    random = np.random.Generator(np.random.Philox(key=5))
    files = {
        "empty.mp4": (b"", "empty"),
        "garbage.mp4": (random.bytes(50_000), "broken"),
        "truncated.mp4": (good[: len(good) * 6 // 10], "broken"),
        "cut.mp4": (fast[: len(fast) * 6 // 10], "broken"),
        "zeroed.mp4": (fast[:middle] + bytes(20_000) + fast[middle + 20_000 :], "broken"),
        "text.mkv": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "broken"),
    }
    for name, (data, _) in files.items():
        (folder / name).write_bytes(data)
    song(folder / "audio.mp4")
    return {name: reason for name, (_, reason) in files.items()} | {"audio.mp4": "no-video"}

"""Videos and images where they lie: read in parts, decoded frame by frame, as they are shown."""

# Shape letters in this file:
#   H height   W width   C channels (3, RGB)

import errno
import io
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np
import PIL.Image
import PIL.ImageOps
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from orchestrator.data.prepare.records import REFUSED
from orchestrator.storage.errors import RefusedError
from orchestrator.storage.store import Store, open_store

Pixels = NDArray[np.uint8]

# Playlists and other texts that name files elsewhere are not among them.
_FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,flv,asf,ogg"
_TELL_LENGTH = ("mov", "matroska", "avi")  # others guess it
_BLOCK_BYTES = 4 << 20  # that are read of a remote file at a time
_MOST_PIXELS = 200_000_000  # of an image


class BrokenError(Exception):
    """A file that is not what it should be; ``reason`` is a word for rows."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class View:
    """How frames are shown: turned to the left by so many quarters, pixels so wide for one high."""

    quarters: int = 0
    pixel_aspect: float = 1.0

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width as shown, of a frame as stored."""
        wide = max(1, round(width * self.pixel_aspect))
        return (wide, height) if self.quarters % 2 else (height, wide)


@dataclass(frozen=True)
class Frame:
    """A frame of a video, when it comes and how long it stays, in seconds from the first.

    Its video's scaler keeps its tables from frame to frame.
    """

    time_s: float
    duration_s: float
    view: View
    raw: av.VideoFrame
    scaler: VideoReformatter

    @property
    def size(self) -> tuple[int, int]:
        """Height and width as shown."""
        return self.view.size(self.raw.height, self.raw.width)

    def picture(self, *, size: tuple[int, int]) -> Pixels:
        """The frame as it is shown, scaled to a height and width: [H, W, 3], uint8, RGB."""
        quarters = self.view.quarters
        height, width = size[::-1] if quarters % 2 else size
        turned = self.scaler.reformat(
            self.raw,
            width=width,
            height=height,
            format="rgb24",
            interpolation=Interpolation.AREA,
            threads=1,
        )
        upright = np.rot90(turned.to_ndarray(), quarters).astype(np.uint8, copy=False)
        return np.ascontiguousarray(upright)


def decoded(root: str, name: str, *, size: int) -> Iterator[Frame]:
    """Frames of a video from the first to the last, in the order in which they are shown.

    Args:
        root: where it lies.
        name: its key there.
        size: in bytes.

    Raises:
        BrokenError: if it is no video, or breaks off.
        RushesError: if its store does not answer.
    """
    with opened(root, name, size=size) as file, _container(file) as (container, stream):
        yield from _frames(container, stream)


def declared_s(root: str, name: str, *, size: int) -> float | None:
    """How long a video is by its own header; None if that does not say."""
    with opened(root, name, size=size) as file, _container(file) as (container, stream):
        if not container.format.name.startswith(_TELL_LENGTH):
            return None
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        return None if container.duration is None else container.duration / av.time_base


def image(root: str, name: str, *, size: int) -> Pixels:
    """An image as it is shown: [H, W, 3], uint8, RGB.

    Raises:
        BrokenError: if it is none.
        RushesError: if its store does not answer.
    """
    with opened(root, name, size=size) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of large images before it refuses larger
        try:
            with PIL.Image.open(file, formats=("JPEG", "PNG", "WEBP")) as opened_image:
                height, width = opened_image.height, opened_image.width
                if height * width > _MOST_PIXELS:
                    raise BrokenError("broken", f"{height} x {width} pixels are too many")
                upright = PIL.ImageOps.exif_transpose(opened_image)
                return np.asarray(_flat(upright), dtype=np.uint8)
        except (OSError, ValueError, SyntaxError, EOFError, PIL.Image.DecompressionBombError) as e:
            raise BrokenError("broken", f"not an image: {_line(e)}") from None


def scaled(pixels_HWC: Pixels, *, size: tuple[int, int]) -> Pixels:
    """An image at another height and width, by area: [H, W, 3], uint8."""
    height, width = size
    picture = PIL.Image.fromarray(pixels_HWC).resize((width, height), PIL.Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.uint8)


def short_side(size: tuple[int, int], *, at_most: int) -> tuple[int, int]:
    """Height and width in about the same proportion, whose shorter side is at most so long."""
    scale = min(1.0, at_most / min(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@contextmanager
def opened(root: str, name: str, *, size: int) -> Iterator[BinaryIO]:
    """A file to be read here and there: the one on this machine, or parts of an object."""
    store = open_store(root)
    with one_file():
        path = store.local(name)
        here = None if path is None else path.open("rb")
    if here is not None:
        with here:
            yield here
        return
    raw = _Remote(store, name, size=size)
    with closing(io.BufferedReader(raw, _BLOCK_BYTES)) as file:
        yield file


@contextmanager
def one_file() -> Iterator[None]:
    """Turns what a store does not permit into something that is wrong with one file.

    Raises:
        BrokenError: in its place.
    """
    try:
        yield
    except (RefusedError, PermissionError) as error:
        raise BrokenError(REFUSED, str(error)) from None


class _Remote(io.RawIOBase):
    """An object as a file; every read is a request, so it is to be buffered."""

    def __init__(self, store: Store, name: str, *, size: int) -> None:
        self._store = store
        self._name = name
        self._size = size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), max(0, self._size - self._place))
        with one_file():
            data = self._store.get_range(self._name, start=self._place, length=length)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


@contextmanager
def _container(file: BinaryIO) -> Iterator[tuple[Any, Any]]:
    try:
        with av.open(file, mode="r", options={"format_whitelist": _FORMATS}) as container:
            stream = next((one for one in container.streams.video if _moves(one)), None)
            if stream is None:
                raise BrokenError("no-video", "no video stream")
            stream.codec_context.thread_count = 1
            yield container, stream
    except FFmpegError as error:
        raise BrokenError("broken", f"not a video: {_line(error)}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # Sent by a header to a place before the file's beginning.
        raise BrokenError("broken", "not a video: its header leads nowhere") from None


def _moves(stream: Any) -> bool:
    """Not the cover of a song, and not a stream of a codec that is not known."""
    # A file that breaks off may name a stream and not say how it was coded.
    has_codec = getattr(stream, "codec_context", None) is not None
    return has_codec and not stream.disposition & Disposition.attached_pic


def _frames(container: Any, stream: Any) -> Iterator[Frame]:
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    first_s: float | None = None
    last: tuple[float, Any] | None = None
    aspect = float(stream.sample_aspect_ratio or 1) or 1.0
    scaler = VideoReformatter()
    for raw in _whole(container, stream):
        shown_s = raw.time
        if first_s is None:
            first_s = shown_s or 0.0
        time_s = None if shown_s is None else shown_s - first_s
        if last is not None:
            before_s, before = last
            # Files without times, or with such that go back, play at their rate.
            if time_s is None or time_s <= before_s:
                time_s = before_s + 1 / rate
            yield Frame(before_s, time_s - before_s, _view(before, aspect), before, scaler)
        last = (time_s or 0.0, raw)
    if last is None:
        raise BrokenError("broken", "no frames")
    time_s, raw = last
    yield Frame(time_s, _last_s(raw, rate=rate), _view(raw, aspect), raw, scaler)


def _whole(container: Any, stream: Any) -> Iterator[Any]:
    """Decoded frames; an error after the first ones says how far they went."""
    frames = 0
    try:
        for raw in container.decode(stream):
            frames += 1
            yield raw
    except FFmpegError as error:
        raise BrokenError("broken", f"breaks off after {frames} frames: {_line(error)}") from None


def _last_s(raw: Any, *, rate: float) -> float:
    told_s = float(raw.duration * raw.time_base) if raw.duration and raw.time_base else 0.0
    return told_s if 0 < told_s < 10 / rate else 1 / rate


def _view(raw: Any, aspect: float) -> View:
    return View(quarters=round(raw.rotation / 90) % 4, pixel_aspect=aspect)


def _flat(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Without what shines through: it is seen on black."""
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        whole = picture.convert("RGBA")
        ground = PIL.Image.new("RGBA", whole.size, (0, 0, 0, 255))
        return PIL.Image.alpha_composite(ground, whole).convert("RGB")
    return picture.convert("RGB")


def _line(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__

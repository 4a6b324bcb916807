"""Buckets that a user names, and which of them a stored clip goes to."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.data.index import Bucket
from orchestrator.data.window import cover, num_windows

_NAMED = re.compile(r"(\d{1,6})x(\d{1,6})x(\d{1,6})@(\d{1,6}(?:\.\d{1,9})?)")


@dataclass(frozen=True)
class RatedBucket:
    """What training sees of a clip: frames, height and width, and frames per second."""

    shape: Bucket
    fps: float

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}@{self.fps:.12g}"

    @property
    def is_image(self) -> bool:
        """Whether it is for single frames."""
        return self.shape[0] == 1

    def check(self, stored: Bucket, *, fps: float) -> None:
        """Looks whether a stored clip is long and large enough.

        Raises:
            ValueError: if it is not; the text says what it has and what is wanted.
        """
        frames, *size = self.shape
        num_windows(frames, fps=self.fps, stored=stored[0], stored_fps=fps)
        cover(stored[1:], size=(size[0], size[1]))

    def columns(self) -> dict[str, Any]:
        """The columns of the index that say so."""
        frames, height, width = self.shape
        return {
            "bucket_frames": frames,
            "bucket_height": height,
            "bucket_width": width,
            "bucket_fps": self.fps,
        }


def parse_bucket(text: str) -> RatedBucket:
    """``FRAMESxHEIGHTxWIDTH@FPS``, as in ``17x256x256@8``.

    Raises:
        ValueError: if it is something else.
    """
    found = _NAMED.fullmatch(text)
    if found is None or not all(float(part) for part in found.groups()):
        raise ValueError(f"seen {text!r}, wanted FRAMESxHEIGHTxWIDTH@FPS as in 17x256x256@8")
    frames, height, width = (int(part) for part in found.groups()[:3])
    return RatedBucket(shape=(frames, height, width), fps=float(found[4]))


def nearest_first(buckets: Sequence[RatedBucket], *, size: tuple[int, int]) -> list[int]:
    """Numbers of the buckets in the order in which a clip of a height and width is tried.

    The nearest in aspect comes first; of several that are equally near the one with most pixels in
    all its frames, then the first.
    """
    return sorted(range(len(buckets)), key=lambda number: _rank(buckets[number], size))


def assign_bucket(buckets: Sequence[RatedBucket], *, stored: Bucket, fps: float) -> RatedBucket:
    """The bucket of a clip: the nearest in aspect of those that it is long and large enough for.

    ``nearest_first`` says which is nearest. Clips of one frame go to buckets of one frame, all
    others to longer ones.

    Args:
        buckets: to choose from, at least one.
        stored: frames, height and width of the clip.
        fps: frames per second of the clip.

    Raises:
        ValueError: if it fits none; the text says why not the nearest.
    """
    alike = [bucket for bucket in buckets if bucket.is_image == (stored[0] == 1)]
    if not alike:
        if stored[0] == 1:
            raise ValueError("1 frame, wanted a bucket of 1 frame for it")
        raise ValueError(f"{stored[0]} frames, wanted a bucket of more than 1 frame for them")
    faults: list[str] = []
    for number in nearest_first(alike, size=stored[1:]):
        bucket = alike[number]
        try:
            bucket.check(stored, fps=fps)
        except ValueError as error:
            faults.append(f"bucket {bucket}: {error}")
            continue
        return bucket
    more = f" (nor any other of {len(faults)} buckets)" if len(faults) > 1 else ""
    raise ValueError(faults[0] + more)


def _rank(bucket: RatedBucket, size: tuple[int, int]) -> tuple[float, int]:
    """How far apart the aspects are, then how few pixels are seen."""
    frames, height, width = bucket.shape
    apart = abs(math.log((width * size[0]) / (height * size[1])))
    return round(apart, 9), -frames * height * width

"""Which bucket a clip goes to, and how much of it is stored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.recipe.prepare import Bucket

_FASTER = 1.05  # than the video, that a bucket's rate may be: 25 frames of 24 are hardly seen


@dataclass(frozen=True)
class Shape:
    """A clip before it is fitted: sides in pixels as shown, seconds, frames per second."""

    height: int
    width: int
    duration_s: float
    fps: float
    is_image: bool


@dataclass(frozen=True)
class Place:
    """A bucket by its number, and the frames that are stored there."""

    bucket: int
    frames: int


def place_of(shape: Shape, buckets: Sequence[Bucket], *, max_crop: float) -> Place | str:
    """The bucket of the nearest aspect that a clip is large, long and quick enough for.

    Of buckets of the same aspect the one with most pixels, then the longest, then the first.

    Returns:
        The place, or why there is none.
    """
    order = sorted(range(len(buckets)), key=lambda number: _rank(shape, buckets[number], number))
    fitting = [number for number in order if buckets[number].is_image == shape.is_image]
    if not fitting:
        return f"no bucket is for {'images' if shape.is_image else 'videos'}"
    for number in fitting:
        if not list(_lacks(shape, buckets[number], max_crop=max_crop)):
            return Place(number, stored_frames(buckets[number]))
    nearest = buckets[fitting[0]]
    lacks = " and ".join(_lacks(shape, nearest, max_crop=max_crop))
    return f"{lacks}, for {nearest.frames} frames of {nearest.size[0]} x {nearest.size[1]}"


def stored_frames(bucket: Bucket) -> int:
    """Frames that are stored of a clip: exactly the bucket's.

    The one place that decides it. A longer clip would give training other windows at each reading,
    and its row would have to name the bucket (``NewSample.seen_as``).
    """
    return bucket.frames


def cover(size: tuple[int, int], *, bucket: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a frame scaled so that it just covers the bucket's."""
    scale = max(bucket[0] / size[0], bucket[1] / size[1])
    return max(bucket[0], round(size[0] * scale)), max(bucket[1], round(size[1] * scale))


def _rank(shape: Shape, bucket: Bucket, number: int) -> tuple[float, int, float, int]:
    return (round(_stretch(shape, bucket), 3), -bucket.pixels, -bucket.duration_s, number)


def _stretch(shape: Shape, bucket: Bucket) -> float:
    """How much wider, or higher, one is than the other: 1 if they have the same aspect."""
    ratio = shape.width / shape.height * bucket.size[0] / bucket.size[1]
    return max(ratio, 1 / ratio)


def _lacks(shape: Shape, bucket: Bucket, *, max_crop: float) -> Iterator[str]:
    if shape.height < bucket.size[0] or shape.width < bucket.size[1]:
        yield f"{shape.height} x {shape.width} pixels are too few"
    lost = 1 - 1 / _stretch(shape, bucket)
    if lost > max_crop:
        yield f"{lost:.0%} of the picture would be lost"
    if bucket.is_image:
        return
    if bucket.frames_in(shape.duration_s) < bucket.frames:
        yield f"{shape.duration_s:.2f} s are too short"
    if bucket.fps > _FASTER * shape.fps:
        yield f"{shape.fps:.4g} fps are too slow"

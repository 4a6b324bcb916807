"""Which bucket a clip goes to, and how much of it is stored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.data.buckets import RatedBucket, nearest_first
from orchestrator.data.window import is_too_slow
from orchestrator.recipe.prepare import Bucket, StoredPart


@dataclass(frozen=True)
class Shape:
    """A clip before it is fitted: sides in pixels as shown, seconds, frames per second."""

    height: int
    width: int
    duration_s: float
    fps: float
    is_image: bool


def rated(bucket: Bucket) -> RatedBucket:
    """A bucket as the index names it."""
    return RatedBucket(shape=(bucket.frames, *bucket.size), fps=bucket.fps)


def place_of(shape: Shape, buckets: Sequence[Bucket], *, max_crop: float) -> int | str:
    """The number of the nearest bucket that a clip is large, long and quick enough for.

    ``nearest_first`` says which is nearest.

    Returns:
        The number, or why there is none.
    """
    order = nearest_first([rated(one) for one in buckets], size=(shape.height, shape.width))
    fitting = [number for number in order if buckets[number].is_image == shape.is_image]
    if not fitting:
        return f"no bucket is for {'images' if shape.is_image else 'videos'}"
    for number in fitting:
        if not list(_lacks(shape, buckets[number], max_crop=max_crop)):
            return number
    nearest = buckets[fitting[0]]
    lacks = " and ".join(_lacks(shape, nearest, max_crop=max_crop))
    return f"{lacks}, for {nearest.frames} frames of {nearest.size[0]} x {nearest.size[1]}"


def stored_frames(shape: Shape, bucket: Bucket, *, store: StoredPart) -> int:
    """Frames, at a bucket's rate, that are stored of a clip that goes there, from its start on."""
    if bucket.is_image or store == "bucket":
        return bucket.frames
    return bucket.frames_in(shape.duration_s)


def _lacks(shape: Shape, bucket: Bucket, *, max_crop: float) -> Iterator[str]:
    height, width = bucket.size
    if shape.height < height or shape.width < width:
        yield f"{shape.height} x {shape.width} pixels are too few"
    wider = shape.width / shape.height * height / width  # of the bucket's aspect
    lost = 1 - min(wider, 1 / wider)
    if lost > max_crop:
        yield f"{lost:.0%} of the picture would be lost"
    if bucket.is_image:
        return
    if bucket.frames_in(shape.duration_s) < bucket.frames:
        yield f"{shape.duration_s:.2f} s are too short"
    if is_too_slow(shape.fps, fps=bucket.fps):
        yield f"{shape.fps:.4g} fps are too slow"

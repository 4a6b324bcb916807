"""Clips that are the same to the eye, over the whole source."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_BITS = 64  # of a hash


@dataclass(frozen=True)
class Candidate:
    """A clip by its hashes; ``pixels`` and ``duration_s`` say which of two is the better one."""

    key: str
    video: str
    scene: int
    hashes: tuple[int, ...]
    pixels: int
    duration_s: float


def doubles(clips: Sequence[Candidate], *, distance: int) -> dict[str, str]:
    """The key that is kept, by the key of every clip that is left out for it.

    Two clips are one if their hashes differ in at most ``distance`` bits in the mean over their
    frames. Clips of one scene never are: what they differ in is how things move. Of several the
    largest is kept, then the longest, then the first by key, so the answer does not hang on the
    order of ``clips``.
    """
    found: dict[str, str] = {}
    for count in sorted({len(clip.hashes) for clip in clips}):
        same = [clip for clip in clips if len(clip.hashes) == count]
        found |= _doubles(sorted(same, key=_rank), bits=distance * count, length=_BITS * count)
    return found


def _doubles(clips: Sequence[Candidate], *, bits: int, length: int) -> dict[str, str]:
    found: dict[str, str] = {}
    kept: list[tuple[Candidate, int]] = []
    by_band: dict[tuple[int, int], list[int]] = defaultdict(list)
    for clip in clips:
        whole = _joined(clip.hashes)
        # Where at most so many bits differ, one of one more bands is the same.
        bands = list(_bands(whole, count=bits + 1, length=length))
        near = sorted({place for band in bands for place in by_band[band]})
        double = next(
            (kept[one][0] for one in near if _is_same(clip, whole, kept[one], bits)), None
        )
        if double is not None:
            found[clip.key] = double.key
            continue
        for band in bands:
            by_band[band].append(len(kept))
        kept.append((clip, whole))
    return found


def _rank(clip: Candidate) -> tuple[float, float, str]:
    return (-clip.pixels, -clip.duration_s, clip.key)


def _is_same(clip: Candidate, whole: int, other: tuple[Candidate, int], bits: int) -> bool:
    kept, kept_whole = other
    is_one_scene = (clip.video, clip.scene) == (kept.video, kept.scene)
    return not is_one_scene and (whole ^ kept_whole).bit_count() <= bits


def _joined(hashes: tuple[int, ...]) -> int:
    whole = 0
    for one in hashes:
        whole = whole << _BITS | one
    return whole


def _bands(whole: int, *, count: int, length: int) -> list[tuple[int, int]]:
    bounds = [length * band // count for band in range(count + 1)]
    return [
        (band, whole >> low & ((1 << high - low) - 1))
        for band, (low, high) in enumerate(pairwise(bounds))
    ]

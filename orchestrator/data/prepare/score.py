"""Fourth step: what can be said of a clip without a network. All is written; nothing is chosen."""

# Shape letters in this file:
#   H height   W width   C channels (3, RGB)

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter

import cv2
import numpy as np
from numpy.typing import NDArray

from orchestrator.data.prepare.media import Pixels, decoded, image, scaled, short_side
from orchestrator.data.prepare.records import IMAGE, Clip, Listed, Probed, Scored
from orchestrator.data.prepare.sampling import Window, at_times, every

VERSION = 1

_SAMPLES_PER_S = 4.0  # frames that are looked at
_SHORT_SIDE = 128  # pixels of these
_DARK, _BLACK = 25, 0.98  # levels of a dark pixel, and their share in a black frame
_CHANGED = 8  # levels that a pixel differs by at least
_STATIC = 0.001  # share of such pixels that is none
_HASHED = (1 / 6, 1 / 2, 5 / 6)  # of a clip
_HASH_SIDE = 32


def score(row: Listed, probed: Probed, clips: Sequence[Clip]) -> list[Scored]:
    """Scores and hashes of a video's clips, in one pass.

    ``motion``: mean change of brightness between frames a quarter of a second apart, of 1.
    ``static``: share of such pairs in which nothing changes. ``black``: share of frames that are
    dark all over (a moon at night is not).
    ``sharpness``: variance of the Laplacian at a short side of 128 pixels, in the mean.
    ``brightness``: mean, of 1. Images have no motion and are not static.

    Raises:
        BrokenError: if the file is not what it was.
    """
    if row.kind == IMAGE:
        pixels_HWC = image(row.root, row.name, size=row.size)
        small_HWC = scaled(pixels_HWC, size=short_side(pixels_HWC.shape[:2], at_most=_SHORT_SIDE))
        return [_scored(clip, probed, _Sums().add(small_HWC)) for clip in clips]
    windows = [Window(number, _times_s(clip)) for number, clip in enumerate(clips)]
    pictures = _pictures(row, windows)
    return [
        _scored(clips[number], probed, _Sums().add(*(one for _, one in group)))
        for number, group in groupby(pictures, key=itemgetter(0))
    ]


def hash_of(gray_HW: NDArray[np.uint8]) -> int:
    """A perceptual hash, 64 bits: which of the lowest 8 x 8 waves are above their median.

    Source: the pHash of Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", section 3.2.1, without its mean filter.
    """
    small_HW = cv2.resize(gray_HW, (_HASH_SIDE, _HASH_SIDE), interpolation=cv2.INTER_AREA)
    waves = cv2.dct(small_HW.astype(np.float32))[:8, :8].ravel()
    bits = waves > np.median(waves[1:])  # the first one is brightness
    bits[0] = False
    return int("".join("1" if bit else "0" for bit in bits), 2)


@dataclass
class _Sums:
    """What is kept of the frames of a clip."""

    frames: int = 0
    pairs: int = 0
    black: int = 0
    static: int = 0
    motion: float = 0.0
    sharpness: float = 0.0
    brightness: float = 0.0
    hashes: list[int] = field(default_factory=list)
    last_HW: NDArray[np.uint8] | None = None

    def add(self, *pictures_HWC: Pixels) -> "_Sums":
        """The next frames."""
        for picture_HWC in pictures_HWC:
            self._add(cv2.cvtColor(picture_HWC, cv2.COLOR_RGB2GRAY).astype(np.uint8))
        return self

    def _add(self, gray_HW: NDArray[np.uint8]) -> None:
        self.frames += 1
        self.brightness += float(gray_HW.mean()) / 255
        self.black += bool((gray_HW <= _DARK).mean() >= _BLACK)
        self.sharpness += float(cv2.Laplacian(gray_HW, cv2.CV_64F).var())
        self.hashes.append(hash_of(gray_HW))
        if self.last_HW is not None and self.last_HW.shape == gray_HW.shape:
            change_HW = cv2.absdiff(gray_HW, self.last_HW)
            self.pairs += 1
            self.motion += float(change_HW.mean()) / 255
            self.static += bool((change_HW >= _CHANGED).mean() < _STATIC)
        self.last_HW = gray_HW


def _times_s(clip: Clip) -> tuple[float, ...]:
    frames = int((clip.end_s - clip.start_s) * _SAMPLES_PER_S + 1e-6)
    return every(clip.start_s, frames=max(1, frames), fps=_SAMPLES_PER_S)


def _pictures(row: Listed, windows: Sequence[Window]) -> Iterator[tuple[int, Pixels]]:
    for clip, frame in at_times(decoded(row.root, row.name, size=row.size), windows):
        size = short_side(frame.size, at_most=_SHORT_SIDE)
        yield clip, frame.picture(size=size)


def _scored(clip: Clip, probed: Probed, sums: _Sums) -> Scored:
    scores = {
        "duration_s": clip.end_s - clip.start_s,
        "height": float(probed.height),
        "width": float(probed.width),
        "fps": probed.fps,
        "black": sums.black / sums.frames,
        "sharpness": sums.sharpness / sums.frames,
        "brightness": sums.brightness / sums.frames,
    }
    if sums.pairs:
        scores |= {"motion": sums.motion / sums.pairs, "static": sums.static / sums.pairs}
    chosen = [sums.hashes[round(part * (sums.frames - 1))] for part in _HASHED]
    return Scored(
        clip.key,
        video=clip.video,
        scores=scores,
        hashes=tuple(f"{one:016x}" for one in (chosen if sums.frames > 1 else chosen[:1])),
    )

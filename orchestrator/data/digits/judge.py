"""Names digit, colour and direction in a clip, having seen only real handwritten digits.

Shape letters: T H W frames, height and width; N crops.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.data.digits.source import COLOURS, WORDS, digit_clip

_TRAINING_CLIPS = 6000
_BRIGHT = 64  # of 255: a pixel that belongs to the digit
_CROP = 12  # side of a crop
_WIDTH_WEIGHT = 2.0  # of the box's width over its height, beside shades from 0 to 1
_LOOKS = 5  # frames that vote on the digit


@dataclass(frozen=True)
class Verdict:
    """What a clip shows, as words; None where nothing could be seen."""

    digit: str | None
    colour: str | None
    direction: str | None


class Judge:
    """A support vector machine on crops of real digits, and plain arithmetic for the rest."""

    def __init__(self, classifier: object) -> None:
        self._classifier = classifier

    @classmethod
    def fit(cls) -> "Judge":
        """Trains on clips of the training split's real digits (a few seconds)."""
        from sklearn.svm import SVC  # takes seconds, and only an evaluation needs it

        crops: list[NDArray[np.float64]] = []
        digits: list[str] = []
        for index in range(_TRAINING_CLIPS):
            clip = digit_clip(seed=1, split="train", index=index, frames=1, height=32, width=32)
            crop = _crop(clip.frames[0])
            if crop is not None:
                crops.append(crop)
                digits.append(clip.labels.digit)
        classifier = SVC(C=10.0)
        classifier.set_params(gamma=0.03)
        classifier.fit(np.stack(crops), np.array(digits))
        return cls(classifier)

    def judge(self, clip_THWC: NDArray[np.uint8]) -> Verdict:
        """What uint8 frames [T, H, W, 3] show."""
        return Verdict(
            digit=self._digit(clip_THWC),
            colour=_colour(clip_THWC),
            direction=_direction(clip_THWC),
        )

    def _digit(self, clip_THWC: NDArray[np.uint8]) -> str | None:
        picked = np.linspace(0, len(clip_THWC) - 1, min(_LOOKS, len(clip_THWC))).round()
        crops = [_crop(clip_THWC[int(frame)]) for frame in picked]
        seen = [crop for crop in crops if crop is not None]
        if not seen:
            return None
        votes: list[str] = list(self._classifier.predict(np.stack(seen)))  # pyright: ignore[reportAttributeAccessIssue]
        return max(WORDS, key=votes.count)


def _crop(frame_HWC: NDArray[np.uint8]) -> NDArray[np.float64] | None:
    """What the classifier sees: the digit's bounding box as 12x12 area means, and its shape.

    The box is stretched to a square, which tells wide digits apart better than padding does; its
    width over its height is kept as a number of its own, so that a one stays thin.
    """
    shade = frame_HWC.max(axis=-1).astype(np.float64)
    rows, columns = np.nonzero(shade > _BRIGHT)
    if len(rows) < 4:
        return None
    box = shade[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = box.shape
    means = _area_means(height, _CROP) @ box @ _area_means(width, _CROP).T
    return np.append(means.ravel() / 255.0, _WIDTH_WEIGHT * width / height)


def _area_means(source: int, target: int) -> NDArray[np.float64]:
    """Matrix [target, source] that averages over the part of the source that a cell covers."""
    edges = np.linspace(0.0, source, target + 1)
    starts, ends = edges[:-1, None], edges[1:, None]
    pixels = np.arange(source)[None, :]
    covered = np.clip(np.minimum(ends, pixels + 1) - np.maximum(starts, pixels), 0.0, None)
    return covered / covered.sum(axis=1, keepdims=True)


def _colour(clip_THWC: NDArray[np.uint8]) -> str | None:
    pixels = clip_THWC.reshape(-1, 3).astype(np.float64)
    bright = pixels[pixels.max(axis=1) > _BRIGHT]
    if not len(bright):
        return None
    mean = bright.mean(axis=0)
    mean /= np.linalg.norm(mean)
    return max(
        COLOURS, key=lambda name: float(mean @ COLOURS[name] / np.linalg.norm(COLOURS[name]))
    )


def _direction(clip_THWC: NDArray[np.uint8]) -> str | None:
    shade_THW = clip_THWC.max(axis=-1).astype(np.float64)
    shade_THW[shade_THW <= _BRIGHT] = 0.0
    mass_T = shade_THW.sum(axis=(1, 2))
    if len(clip_THWC) < 2 or not mass_T.all():
        return None
    rows_T = (shade_THW.sum(axis=2) @ np.arange(shade_THW.shape[1])) / mass_T
    columns_T = (shade_THW.sum(axis=1) @ np.arange(shade_THW.shape[2])) / mass_T
    # The slope over all frames: one odd frame does not turn the verdict.
    down, right = (np.polyfit(np.arange(len(mass_T)), track, 1)[0] for track in (rows_T, columns_T))
    if abs(right) >= abs(down):
        return "right" if right > 0 else "left"
    return "down" if down > 0 else "up"

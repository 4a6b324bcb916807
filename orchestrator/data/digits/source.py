"""Clips of one handwritten digit that moves: deterministic, with known labels.

Shape letters: T H W frames, height and width.
"""

import gzip
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "eval"]
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
}
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (row, column)
SPEEDS = {"slowly": 0.0375, "steadily": 0.05, "quickly": 0.075}  # digit sides per frame
FIRST_EVAL_IMAGE = 1500  # of scikit-learn's 1797 digits: eval draws from the later ones
SHARE = 5 / 8  # of the frame's shorter side that a digit's box takes
SMALLEST_FRAME = 12  # pixels: below it a digit would have fewer than its scan
WANDER = 1 / 6  # how far from the middle a path may lie, as a part of the room beside the digit
_SCANS = "datasets/data/digits.csv.gz"  # in scikit-learn: 64 shades from 0 to 16, and the digit
_SCAN = 8  # pixels of a scanned digit's side
_SOFT_SIDE = 20  # pixels of a digit's side up to which interpolation alone draws it


@dataclass(frozen=True)
class Labels:
    """What a clip shows, as words."""

    digit: str
    colour: str
    direction: str | None  # None for an image
    speed: str | None


@dataclass(frozen=True)
class DigitClip:
    """One clip: uint8 frames [T, H, W, 3], its wordings (the plain one first) and its labels."""

    frames: NDArray[np.uint8]
    captions: tuple[str, ...]
    labels: Labels


def digit_clip(
    *, seed: int, split: Split, index: int, frames: int, height: int, width: int
) -> DigitClip:
    """Clip ``index`` of a split: a pure function of its arguments.

    The digit keeps its box (20x20 pixels in a frame of 32x32) inside the frame. Speeds are those
    that fit the frame; where none does the digit crosses all of it, slowly.

    Raises:
        ValueError: if the frame is too small to show a digit.
    """
    if min(height, width) < SMALLEST_FRAME:
        wanted = f"wanted at least {SMALLEST_FRAME}x{SMALLEST_FRAME} for a digit"
        raise ValueError(f"size={[height, width]}, {wanted}")
    random = np.random.Generator(
        np.random.Philox(key=np.array([seed, 2 * index + (split == "eval")], dtype=np.uint64))
    )
    scans, digits = real_digits(split)
    scan = int(random.integers(len(scans)))
    colour = str(random.choice(list(COLOURS)))
    direction = str(random.choice(list(DIRECTIONS)))
    side = digit_side(height, width)
    room = np.array([height - side, width - side], dtype=float)
    speed = str(random.choice(_speeds(direction, frames=frames, room=room / side)))
    step = np.array(DIRECTIONS[direction]) * SPEEDS[speed] * side
    travel = step * (frames - 1)
    travel = np.clip(travel, -room, room)
    low, high = np.maximum(0.0, -travel), np.minimum(room, room - travel)
    # Along the path a clip starts anywhere; across it the digit stays near the middle.
    across = travel == 0.0
    low = np.where(across, room * (0.5 - WANDER), low)
    high = np.where(across, room * (0.5 + WANDER), high)
    start = low + random.random(2) * (high - low)
    corners = start + np.linspace(0.0, 1.0, frames)[:, None] * travel
    digit = _drawn(scans[scan], side=side)
    shade_THW = np.stack([_place(digit, corner, height, width) for corner in corners])
    pixels = shade_THW[..., None] * np.array(COLOURS[colour], dtype=np.float64)
    labels = Labels(
        digit=WORDS[digits[scan]],
        colour=colour,
        direction=direction if frames > 1 else None,
        speed=speed if frames > 1 else None,
    )
    return DigitClip(
        frames=np.rint(pixels).astype(np.uint8), captions=captions(labels), labels=labels
    )


def digit_side(height: int, width: int) -> int:
    """Pixels of a digit's box in a frame."""
    return round(SHARE * min(height, width))


def _drawn(scan: NDArray[np.float64], *, side: int) -> NDArray[np.float64]:
    """A scan [8, 8] enlarged to [side, side]; its edges stay as wide, in pixels, as at 20.

    Interpolation alone would leave a large frame with nothing that a small one does not have.
    """
    enlarge = _interpolation(_SCAN, side)
    sharper = max(1.0, side / _SOFT_SIDE)
    return np.clip(0.5 + sharper * (enlarge @ scan @ enlarge.T - 0.5), 0.0, 1.0)


def _speeds(direction: str, *, frames: int, room: NDArray[np.float64]) -> list[str]:
    """Speeds at which a digit stays in the room (in digit sides) beside it; else the slowest."""
    along = float(np.abs(DIRECTIONS[direction]) @ room)
    fitting = [name for name, sides in SPEEDS.items() if sides * (frames - 1) <= along]
    return fitting or [min(SPEEDS, key=lambda name: SPEEDS[name])]


def captions(labels: Labels) -> tuple[str, ...]:
    """Wordings that are true of a clip, the plain one first."""
    colour, digit, way, speed = labels.colour, labels.digit, labels.direction, labels.speed
    if way is None:
        return (
            f"a {colour} {digit}",
            f"a handwritten {digit} in {colour}",
            f"the digit {digit}, drawn in {colour}",
        )
    towards = {"left": "to the left", "right": "to the right", "up": "upwards", "down": "downwards"}
    return (
        f"a {colour} {digit} moving {way}",
        f"a handwritten {digit} in {colour} moving {way} {speed}",
        f"the {colour} digit {digit} goes {towards[way]}",
        f"a {digit}, drawn in {colour}, that moves {speed} {towards[way]}",
    )


@cache
def real_digits(split: Split) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scans [N, 8, 8] in [0, 1] and digits [N]; no scan is in both splits.

    Source: UCI optical recognition of handwritten digits, as shipped with scikit-learn.
    """
    # Its file alone: to import it takes a second, and scipy.stats, which comes along, breaks beside
    # a thread that is about to import torch.
    package = find_spec("sklearn")
    assert package is not None
    assert package.origin is not None
    with gzip.open(Path(package.origin).parent / _SCANS, "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    part = slice(None, FIRST_EVAL_IMAGE) if split == "train" else slice(FIRST_EVAL_IMAGE, None)
    scans = table[part, :-1].reshape(-1, _SCAN, _SCAN) / 16.0
    return scans, table[part, -1].astype(np.int64)


@cache
def _interpolation(source: int, target: int) -> NDArray[np.float64]:
    """Matrix [target, source] of Catmull-Rom interpolation between pixel centres.

    Source: Keys 1981, "Cubic convolution interpolation", equation 15 (a = -1/2).
    """
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    distance = np.abs(centres[:, None] - np.arange(source)[None, :])
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)


def _place(
    digit: NDArray[np.float64], corner: NDArray[np.float64], height: int, width: int
) -> NDArray[np.float64]:
    """A frame [H, W] with the digit's upper left corner at (row, column), between pixels too."""
    frame = np.zeros((height + 1, width + 1))
    (row, column), (down, right) = np.floor(corner).astype(int), corner % 1.0
    for rows, share_down in ((row, 1 - down), (row + 1, down)):
        for columns, share_right in ((column, 1 - right), (column + 1, right)):
            shade = share_down * share_right * digit
            frame[rows : rows + len(digit), columns : columns + len(digit)] += shade
    return frame[:height, :width]

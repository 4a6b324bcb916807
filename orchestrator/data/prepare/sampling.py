"""Frames of a video at wanted times, in one pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.data.prepare.media import BrokenError, Frame
from orchestrator.data.prepare.records import BROKEN

_ROUNDING_S = 1e-3  # containers that count in milliseconds


@dataclass(frozen=True)
class Window:
    """A clip by its place in a list, and the times of the frames that are wanted of it."""

    clip: int
    times_s: tuple[float, ...]


def every(start_s: float, *, frames: int, fps: float) -> tuple[float, ...]:
    """So many times from a start on, at a rate."""
    return tuple(start_s + number / fps for number in range(frames))


def evenly(start_s: float, end_s: float, *, frames: int) -> tuple[float, ...]:
    """Times in the middles of equal parts."""
    return tuple(start_s + (part + 0.5) * (end_s - start_s) / frames for part in range(frames))


def at_times(frames: Iterator[Frame], windows: Sequence[Window]) -> Iterator[tuple[int, Frame]]:
    """Yields (clip, frame) for every wanted time: the frame that is shown then.

    Decoding ends with the last of them.

    Args:
        frames: in the order in which they are shown.
        windows: in the order of their times, none overlapping.

    Raises:
        BrokenError: if the frames end before that.
    """
    wanted = [(window.clip, time_s) for window in windows for time_s in window.times_s]
    place = 0
    for frame in frames:
        end_s = frame.time_s + frame.duration_s
        while place < len(wanted) and wanted[place][1] + _ROUNDING_S < end_s:
            yield wanted[place][0], frame
            place += 1
        if place == len(wanted):
            return
    raise BrokenError(BROKEN, f"ends before {wanted[place][1]:.3f} s")

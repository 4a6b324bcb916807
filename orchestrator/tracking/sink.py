"""What the feeder needs of a tracking server, and how a server says no."""

import math
from dataclasses import dataclass
from typing import Protocol

from orchestrator.redact import redact
from orchestrator.tracking.params import clean_name
from orchestrator.tracking.spool import Event, Marks


class _AnsweredError(Exception):
    """What a server or a store said, without what is secret in it: it is logged and kept."""

    def __init__(self, text: str) -> None:
        super().__init__(redact(text))


class RejectedError(_AnsweredError):
    """The server will never take this event."""


class NotNowError(_AnsweredError):
    """The server, or what an event points at, cannot be reached now."""


@dataclass(frozen=True)
class Point:
    """One value of one metric."""

    name: str
    value: float
    time_ms: int
    step: int


class Sink(Protocol):
    """A tracking server. Every call may raise RejectedError or NotNowError.

    A stage is named by its id, the run itself by "". Every call may be repeated: what is stored
    already is not stored again.
    """

    def find_run(self) -> str | None:
        """The server's id of the run, or None where it has none yet."""
        ...

    def stored_marks(self, stage: str) -> dict[str, int]:
        """Highest stored step of every metric."""
        ...

    def log_points(self, stage: str, points: list[Point]) -> None:
        """Stores values with the times and steps that they have."""
        ...

    def apply(self, event: Event) -> None:
        """Stores an event of any other kind."""
        ...

    def abandon(self) -> None:
        """Marks what is running as killed: its driver is gone."""
        ...

    def answers(self) -> bool:
        """True if the server takes calls now."""
        ...


def stage_of(event: Event) -> str:
    """The stage that an event belongs to; "" is the run itself."""
    return event.get("stage") or ""


def points_of(event: Event) -> list[Point]:
    """The finite values of a ``metrics`` event; the others are counted as ``nonfinite``.

    Raises:
        RejectedError: if the event has no step or time, or a value is no number.
    """
    try:
        step, time_ms = int(event["step"]), int(event["time_ms"])
        values = {clean_name(name): float(value) for name, value in event["values"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RejectedError(f"not a metrics event: {error!r}") from None
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    if len(finite) < len(values):
        finite["nonfinite"] = float(len(values) - len(finite))
    return [Point(name, value, time_ms, step) for name, value in finite.items()]


def unseen(points: list[Point], *, marks: dict[str, int]) -> list[Point]:
    """Those past the highest stored step of their metric; a resumed stage repeats steps."""
    return [point for point in points if point.step > marks.get(point.name, -1)]


def raised(marks: dict[str, int], *, points: list[Point]) -> dict[str, int]:
    """The marks once ``points`` are stored."""
    new = dict(marks)
    for point in points:
        new[point.name] = max(point.step, new.get(point.name, -1))
    return new


def copy_marks(marks: Marks) -> Marks:
    """A copy that can be changed alone."""
    return {stage: dict(steps) for stage, steps in marks.items()}

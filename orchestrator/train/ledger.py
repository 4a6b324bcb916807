"""The clock of one rank: every nanosecond of its process belongs to one category."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import psutil

Category = Literal[
    "start_up",
    "compile",
    "data_wait",
    "compute",
    "communication",
    "save_blocked",
    "evaluation",
]
CATEGORIES: tuple[Category, ...] = (
    "start_up",
    "compile",
    "data_wait",
    "compute",
    "communication",
    "save_blocked",
    "evaluation",
)
IN_STEPS: tuple[Category, ...] = ("data_wait", "compute", "communication")
"""What a step is made of; the others come between steps, or where one waits for a save's copy."""

_NANO = 1e9

Clock = Callable[[], int]
"""Nanoseconds since 1970 that never go back."""


@dataclass(frozen=True)
class Reading:
    """A ledger at one moment.

    Attributes:
        started_ns: when it began.
        time_ns: the moment.
        phase: what the rank was at.
        phase_ns: how long it had been.
        spent_ns: by category, the current phase included; the sum is ``time_ns - started_ns``.
    """

    started_ns: int
    time_ns: int
    phase: Category
    phase_ns: int
    spent_ns: Mapping[Category, int]

    @property
    def in_steps_ns(self) -> int:
        """Time spent in steps, whatever they did."""
        return sum(self.spent_ns[category] for category in IN_STEPS)

    def seconds(self) -> dict[str, float]:
        """``spent_ns`` in seconds."""
        return {category: spent / _NANO for category, spent in self.spent_ns.items()}


@dataclass(frozen=True)
class _State:
    """Replaced as a whole, so that another thread reads it without a lock."""

    phase: Category
    since_ns: int
    spent_ns: Mapping[Category, int]


class Ledger:
    """Accounts for a process from ``started_ns`` on; one thread writes, any thread reads.

    Phases nest, the innermost one counts. Time in a collective is ``communication`` within
    ``compute`` only: the collectives of a save are a part of the save.

    Args:
        started_ns: when the process began; counted as ``start_up`` until ``settle``.
        clock: see ``Clock``.
    """

    def __init__(self, *, started_ns: int, clock: Clock) -> None:
        self._clock = clock
        self.started_ns = started_ns
        self._state = _State("start_up", started_ns, dict.fromkeys(CATEGORIES, 0))

    def settle(self, category: Category) -> None:
        """What counts from now on outside of ``in_phase``; to be called outside of it."""
        if category != self._state.phase:
            self._turn(category)

    @contextmanager
    def in_phase(self, category: Category) -> Iterator[None]:
        """What counts within it."""
        before = self._state.phase
        if category == before or (category == "communication" and before != "compute"):
            yield
            return
        self._turn(category)
        try:
            yield
        finally:
            self._turn(before)

    def read(self) -> Reading:
        """As of now; from any thread."""
        state = self._state
        now_ns = max(self._clock(), state.since_ns)
        phase_ns = now_ns - state.since_ns
        return Reading(
            started_ns=self.started_ns,
            time_ns=now_ns,
            phase=state.phase,
            phase_ns=phase_ns,
            spent_ns={**state.spent_ns, state.phase: state.spent_ns[state.phase] + phase_ns},
        )

    def _turn(self, category: Category) -> None:
        now = self.read()
        self._state = _State(category, now.time_ns, now.spent_ns)


class _Process:
    """This process's own clock, and since when nobody has accounted for it."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.monotonic_ns()
        self._free_since_ns: int | None = None

    def clock(self) -> int:
        return self._offset_ns + time.monotonic_ns()

    def begin(self) -> int:
        if self._free_since_ns is None:
            return min(int(psutil.Process().create_time() * _NANO), self.clock())
        return self._free_since_ns

    def end(self) -> None:
        self._free_since_ns = self.clock()


_PROCESS = _Process()


@contextmanager
def process_ledger() -> Iterator[Ledger]:
    """The ledger of a stage in this process: the first one begins with the process.

    A process that trains several stages, one after another, has one for each of them; a later
    one begins where the one before has ended.
    """
    ledger = Ledger(started_ns=_PROCESS.begin(), clock=_PROCESS.clock)
    try:
        yield ledger
    finally:
        _PROCESS.end()

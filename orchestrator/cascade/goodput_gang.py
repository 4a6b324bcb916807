"""What the ranks of one gang spend their time on, from their beats."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cascade.goodput_rows import (
    COMMUNICATION,
    COMPILE,
    COMPUTE,
    DATA_WAIT,
    DETECTION,
    IDLE,
    REPEATED,
    RESTART,
    START_UP,
    Row,
)

_WORK = (COMPUTE, COMMUNICATION, DATA_WAIT, COMPILE)  # lost where its steps are done again
_KEPT = 64  # spans per rank before older ones are summed up


@dataclass(frozen=True)
class _Span:
    """A rank's time between two beats."""

    start: float
    seconds: Mapping[str, float]

    @property
    def is_of_steps(self) -> bool:
        """Whether nothing of it was a save, a preview or a start."""
        return all(name in (*_WORK, REPEATED) for name in self.seconds)


@dataclass
class _Rank:
    """What is known of one rank.

    Attributes:
        since: up to when its time is accounted for.
        said: its own account in its last beat.
        step: steps done at its last beat; 0 also before it knows.
        repeats: work up to this step has been done before.
        sums: its time up to some moment; ``recent`` is what came after that.
    """

    since: float
    repeats: int
    node: str | None = None
    phase: str = START_UP
    said: Mapping[str, float] = field(default_factory=dict[str, float])
    step: int = 0
    first_step: int | None = None
    last_step: int | None = None
    gap_s: float = 0.0
    sums: dict[str, float] = field(default_factory=dict[str, float])
    recent: deque[_Span] = field(default_factory=deque[_Span])
    limit: int = _KEPT


class Gang:
    """The ranks that train a stage together, until one is lost or all are done.

    Args:
        start: unix time from which on their time counts: the stage's start, or the end of the gang
            before.
        ranks: how many they are.
        is_first: whether what comes before their first step is a start-up or a restart.
        reached: the most steps that an earlier gang has done.
    """

    def __init__(self, *, start: float, ranks: int, is_first: bool, reached: int) -> None:
        self.start = start
        self.token: str | None = None
        self.end: float | None = None
        self.failed = False
        self._beginning = START_UP if is_first else RESTART
        self._reached = reached
        self._num_ranks = ranks
        self._ranks: dict[int, _Rank] = {}
        self._highest = 0  # steps
        self._advanced: float | None = None  # when the newest step was heard of
        self._longest_s: float | None = None  # between two such moments

    @property
    def reached(self) -> int:
        """The most steps that this gang or one before it has done."""
        return max(self._reached, self._highest)

    @property
    def last_heard(self) -> float:
        """Up to when the time of some rank is accounted for."""
        return max((rank.since for rank in self._ranks.values()), default=self.start)

    def beat(self, beat: Mapping[str, Any], *, time: float) -> None:
        """Takes a rank's account of its time up to ``time``, unless that is after the end."""
        self._num_ranks = max(self._num_ranks, beat["ranks"], beat["rank"] + 1)
        if self.end is not None and time > self.end:
            return
        rank = self._ranks.get(beat["rank"])
        if rank is None:
            rank = self._ranks[beat["rank"]] = self._begin(beat, time=time)
        if time <= rank.since:
            return
        self._take(rank, beat, time=time)

    def finish(self, *, time: float, failed: bool) -> None:
        """The moment at which it was seen to have ended; never before its last beat."""
        self.end = max(time, self.last_heard)
        self.failed = failed

    def rows(self, head: Mapping[str, Any], *, until: float, tail: str | None) -> list[Row]:
        """What every rank's time from the start to ``until`` was spent on.

        Args:
            head: attempt, stage and inputs.
            until: not before the last beat.
            tail: what ranks do after their last beats where nothing failed, and after the end;
                None: what they did at their last beat.
        """
        return [
            self._row(head, number, until=until, tail=tail) for number in range(self._num_ranks)
        ]

    def _row(self, head: Mapping[str, Any], number: int, *, until: float, tail: str | None) -> Row:
        rank = self._ranks.get(number, _Rank(since=self.start, repeats=0))
        sums = dict(rank.sums)
        for span in rank.recent:
            in_vain = self.failed and self._is_in_vain(span)
            _add(sums, {DETECTION: sum(span.seconds.values())} if in_vain else span.seconds)
        end = until if self.end is None else min(self.end, until)
        is_heard = number in self._ranks
        after = self._after(rank, tail=tail) if is_heard else self._beginning
        _add(sums, {after: end - rank.since})
        _add(sums, {tail or RESTART: until - end})
        return Row(
            **head,
            gang=self.token,
            rank=number,
            node=rank.node,
            start=self.start,
            end=until,
            seconds={name: seconds for name, seconds in sums.items() if seconds},
            gap_s=rank.gap_s,
            first_step=rank.first_step,
            last_step=rank.last_step,
        )

    def _begin(self, beat: Mapping[str, Any], *, time: float) -> _Rank:
        """A rank's time before its process began, and none of what that did before our start."""
        started = time - (beat["time"] - beat["started"])  # if its clock is ahead, so is this
        began = max(min(started, time), self.start)
        before = max(self.start - started, 0.0)
        rank = _Rank(since=began, repeats=self._reached, said={START_UP: before})
        rank.sums[self._beginning] = began - self.start
        return rank

    def _take(self, rank: _Rank, beat: Mapping[str, Any], *, time: float) -> None:
        new = {
            name: max(seconds - rank.said.get(name, 0.0), 0.0)
            for name, seconds in beat["seconds"].items()
        }
        width, told = time - rank.since, sum(new.values())
        rank.gap_s += abs(width - told)
        if told > width:
            new = {name: seconds * width / told for name, seconds in new.items()}
        else:
            _add(new, {beat["phase"]: width - told})
        self._rename(rank, new, step=beat["step"])
        seconds = {name: one for name, one in new.items() if one}
        rank.recent.append(_Span(start=rank.since, seconds=seconds))
        rank.since, rank.said = time, beat["seconds"]
        rank.node, rank.phase, rank.step = beat["node"], beat["phase"], beat["step"]
        if rank.phase != START_UP:
            rank.first_step = rank.step if rank.first_step is None else rank.first_step
            self._note_step(rank.step, time=time)
            rank.last_step = max(rank.step, rank.last_step or 0)
        if len(rank.recent) >= rank.limit:
            self._sum_up()
            rank.limit = max(_KEPT, 2 * len(rank.recent))

    def _note_step(self, step: int, *, time: float) -> None:
        if step <= self._highest:
            return
        self._highest = step
        if self._advanced is not None:
            self._longest_s = max(self._longest_s or 0.0, time - self._advanced)
        self._advanced = time

    def _rename(self, rank: _Rank, new: dict[str, float], *, step: int) -> None:
        """Start-up after a failure, and work on steps that were done before."""
        _move(new, START_UP, self._beginning, share=1.0)
        before = rank.step or step
        if step < before:  # it went back to a checkpoint by itself
            rank.repeats = max(rank.repeats, before)
        done = rank.repeats - before
        share = float(done > 0) if step <= before else min(max(done / (step - before), 0.0), 1.0)
        for name in _WORK:
            _move(new, name, REPEATED, share=share)

    def _after(self, rank: _Rank, *, tail: str | None) -> str:
        """What a rank's time between its last beat and the gang's end is."""
        if self.failed:
            return DETECTION
        if tail is not None:
            return tail
        if self.end is not None:
            return IDLE
        if rank.phase == START_UP:
            return self._beginning
        is_repeated = rank.phase in _WORK and rank.step < rank.repeats
        return REPEATED if is_repeated else rank.phase

    def _is_in_vain(self, span: _Span) -> bool:
        """Whether a gang that failed could have been known to fail by then."""
        silent, stuck = self._silent_since(), self._stuck_since()
        return span.start >= silent or (span.start >= stuck and span.is_of_steps)

    def _silent_since(self) -> float:
        """The last beat of the rank that was the first to fall silent."""
        return min((rank.since for rank in self._ranks.values()), default=self.start)

    def _stuck_since(self) -> float:
        """When the step under way had taken longer than any before: a gang that hangs beats on."""
        if self._advanced is None or self._longest_s is None:
            return math.inf
        return self._advanced + self._longest_s

    def _sum_up(self) -> None:
        known = min(self._silent_since(), self._stuck_since())
        for rank in self._ranks.values():
            while rank.recent and rank.recent[0].start < known:
                _add(rank.sums, rank.recent.popleft().seconds)


def _add(sums: dict[str, float], more: Mapping[str, float]) -> None:
    for name, seconds in more.items():
        sums[name] = sums.get(name, 0.0) + seconds


def _move(sums: dict[str, float], source: str, target: str, *, share: float) -> None:
    moved = sums.get(source, 0.0) * share
    if moved:
        sums[source] -= moved
        _add(sums, {target: moved})

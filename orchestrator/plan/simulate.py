"""Runs of one training stage among failures, drawn by a seed: where the time of its nodes goes.

Goodput is what docs/goodput.md calls so: of all time that ranks are held, the part spent on steps
that had not been done before.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor, inf, isinf

import numpy as np

_IN_VAIN = 1_000  # gangs, one after another, none of which has come to a save: so it goes on
_GROW_S = 20.0  # two looks, 10 s apart, until a gang grows: docs/reliability.md

NextFailure = Callable[[float, int], float]
"""(seconds since the start, nodes held) -> when one of them fails."""


@dataclass(frozen=True)
class Work:
    """A stage, and what it loses where.

    Attributes:
        steps: optimizer steps to do.
        gangs: nodes, and seconds of a step on so many, of every gang that may be, the smallest
            first. One alone is not elastic.
        save_every: steps from one save to the next.
        save_s: for which a save holds training up.
        commit_s: from there until the checkpoint counts.
        start_s: before the first step of the first gang.
        restart_s: before the first step of every later one.
        detect_s: until a lost node is seen.
        replace_s: until there is another one in its place.
    """

    steps: int
    gangs: tuple[tuple[int, float], ...]
    save_every: int
    save_s: float
    commit_s: float
    start_s: float
    restart_s: float
    detect_s: float
    replace_s: float

    @property
    def nodes(self) -> int:
        """Of the largest gang."""
        return self.gangs[-1][0]

    @property
    def step_s(self) -> float:
        """Seconds of a step of the largest gang."""
        return self.gangs[-1][1]


@dataclass(frozen=True)
class Lived:
    """One simulated run.

    Attributes:
        seconds: from start to end; infinite if it never ends.
        node_s: seconds that nodes were held.
        useful_s: of them, on steps that had not been done before.
        saving_s: held up by saves.
        repeated_s: on steps that had been done before, or that were never finished.
        down_s: start, detection, restart, and waiting for nodes.
        failures: that ended a gang.
    """

    seconds: float
    node_s: float
    useful_s: float
    saving_s: float
    repeated_s: float
    down_s: float
    failures: int

    @property
    def goodput(self) -> float:
        """From 0 to 1."""
        return self.useful_s / self.node_s if self.node_s else 0.0


def drawn(rng: np.random.Generator, *, node_mttf_s: float) -> NextFailure:
    """Failures without memory: every node's time to the next one is exponential."""
    draws: list[float] = []

    def next_failure(now_s: float, nodes: int) -> float:
        if not draws:
            draws.extend(rng.standard_exponential(256).tolist())
        return now_s + draws.pop() * node_mttf_s / nodes

    return next_failure


def recorded(times_s: Sequence[float]) -> NextFailure:
    """Failures at given seconds after the start: those of a run that has been."""

    def next_failure(now_s: float, nodes: int) -> float:
        del nodes
        return min((one for one in times_s if one > now_s), default=inf)

    return next_failure


def simulate(work: Work, *, node_mttf_s: float, seed: int, runs: int) -> list[Lived]:
    """Some runs; the same ones for the same arguments, with the same failures at any interval."""
    found: list[Lived] = []
    for one in np.random.SeedSequence(seed).spawn(runs):
        found.append(live(work, drawn(np.random.default_rng(one), node_mttf_s=node_mttf_s)))
        if isinf(found[-1].seconds):  # and so would the others
            break
    return found


def live(work: Work, next_failure: NextFailure) -> Lived:
    """One run from its start to its end."""
    run = _Run(work)
    while run.in_vain < _IN_VAIN:
        run.place()
        if run.train(next_failure):
            return run.lived(ended=True)
    return run.lived(ended=False)


class _Run:
    """Nodes, clock and steps of a run under way.

    Attributes:
        in_vain: gangs since the last one that has come to a save.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._step_s = dict(work.gangs)
        self._sizes = sorted(self._step_s)
        self._up = work.nodes
        self._returns: deque[float] = deque()  # when nodes come in place of lost ones
        self._size = 0
        self._now = 0.0
        self._committed = self._reached = 0
        self.in_vain = 0
        self._is_first = True
        self._failures = 0
        self._useful = self._saving = self._repeated = self._down = 0.0

    def place(self) -> None:
        """Finds nodes for the next gang, if need be by waiting for them."""
        waited = self._now
        self._take_back()
        while self._up < self._sizes[0]:
            self._now = max(self._now, self._returns[0])
            self._take_back()
        self._size = self._largest(self._up)
        self._down += (self._now - waited) * self._size

    def train(self, next_failure: NextFailure) -> bool:
        """A gang from its first process to its end; true if that is the end of the stage."""
        work, size = self._work, self._size
        begin_s = work.start_s if self._is_first else work.restart_s
        self._is_first = False
        step_s, left = self._step_s[size], work.steps - self._committed
        saving = ceil(left / work.save_every) * work.save_s
        begins = self._now + begin_s
        ends = begins + left * step_s + saving
        fails, grows = next_failure(self._now, size), max(self._grows(size), begins)
        until = min(ends, fails, grows)
        self._down += min(until - self._now, begin_s) * size
        trained = max(until - begins, 0.0)
        self._now = until
        if until == ends:
            self._count(left, step_s=step_s, saving=saving, trained=trained)
            return True
        period = work.save_every * step_s + work.save_s
        saves = floor(trained / period)
        rest = trained - saves * period
        done = min(saves * work.save_every + min(floor(rest / step_s), work.save_every), left)
        saving = saves * work.save_s + max(rest - work.save_every * step_s, 0.0)
        self._count(done, step_s=step_s, saving=saving, trained=trained)
        if until == fails:
            self._fail(trained - work.commit_s, period=period)
        else:
            self._save(done)
        return False

    def _count(self, done: int, *, step_s: float, saving: float, trained: float) -> None:
        """Time of a gang's steps: new ones, repeated ones, saves, and a step that was cut off."""
        again = min(done, max(self._reached - self._committed, 0))
        useful = (done - again) * step_s
        self._useful += useful * self._size
        self._saving += saving * self._size
        self._repeated += max(trained - useful - saving, 0.0) * self._size
        self._reached = max(self._reached, self._committed + done)

    def _fail(self, committing_s: float, *, period: float) -> None:
        work = self._work
        kept = max(floor(committing_s / period), 0) * work.save_every
        self._committed = min(self._committed + kept, work.steps)
        self.in_vain = 0 if kept else self.in_vain + 1
        self._down += work.detect_s * self._size
        self._returns.append(self._now + work.replace_s)
        self._now += work.detect_s
        self._up -= 1
        self._failures += 1

    def _save(self, done: int) -> None:
        """Before a gang grows, it saves where it is and waits for the commit."""
        took = self._work.save_s + self._work.commit_s
        self._committed += done
        self.in_vain = 0 if done else self.in_vain + 1
        self._saving += took * self._size
        self._now += took

    def _take_back(self) -> None:
        while self._returns and self._returns[0] <= self._now:
            self._returns.popleft()
            self._up += 1

    def _largest(self, up: int) -> int:
        return max(size for size in self._sizes if size <= up)

    def _grows(self, size: int) -> float:
        for count, time in enumerate(self._returns, start=1):
            if self._largest(self._up + count) > size:
                return max(time, self._now) + _GROW_S
        return inf

    def lived(self, *, ended: bool) -> Lived:
        """What has become of it."""
        parts = (self._useful, self._saving, self._repeated, self._down)
        return Lived(
            seconds=self._now if ended else inf,
            node_s=sum(parts),
            useful_s=self._useful,
            saving_s=self._saving,
            repeated_s=self._repeated,
            down_s=self._down,
            failures=self._failures,
        )

"""How many workers a stage's gang has, and when a running one is started anew: without Ray.

A gang that runs is never resized as it is. It is asked to pause: it saves at its next step and
waits; then it ends, and a new one goes on from that save. Nothing is repeated, nothing has failed.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.cascade.board import GangState
from orchestrator.cascade.executor import NoRoomError
from orchestrator.cascade.room import Resources, largest
from orchestrator.errors import StoppedError

LOOK_S = 10.0  # between two looks whether a gang could be larger
SAVE_LIMIT_S = 120.0  # for a gang to pause; a node that goes away does not wait longer
ROOM_LIMIT_S = 60.0  # that a stage looks for a place before others have a turn


class GangLine(Protocol):
    """What the planner hears of its gang, and asks of it (``places.Line``)."""

    def look(self) -> GangState:
        """All that is known of the gang."""
        ...

    def may_grow(self) -> bool:
        """Whether the gang may take what is free."""
        ...

    def pause(self) -> None:
        """Asks the gang to save and wait."""
        ...

    def go_on(self) -> None:
        """Takes that back."""
        ...


@dataclass(frozen=True)
class Cluster:
    """What there is (``nodes``).

    Attributes:
        free: by placement group: what a gang that holds it could have on each node.
        draining: nodes that are about to be taken away.
    """

    free: Callable[[str | None], Sequence[Resources]]
    draining: Callable[[], Collection[str]]


class Planner:
    """Decides for one stage.

    Args:
        line: to the gang.
        cluster: what there is.
        sizes: numbers of workers that the stage may run with.
        needs: of each worker, on one node.
        clock: seconds.
    """

    def __init__(
        self,
        *,
        line: GangLine,
        cluster: Cluster,
        sizes: Sequence[int],
        needs: Resources,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line = line
        self._cluster = cluster
        self._sizes = sizes
        self._needs = needs
        self._clock = clock
        self._searching_s: float | None = None  # since when the stage looks for a place
        self._begun_s: float | None = None  # when the last gang was decided on
        self._start_s: float | None = None  # what it took until that gang was at work
        self._asked_s = clock()  # when a running gang was last asked to pause
        self._looked_s = clock()
        self._could_be = 0  # the size that was possible at the last look

    def start(self) -> int | None:
        """Workers of a gang that can start now; None: there is no place for one yet.

        Raises:
            StoppedError: if the stage should end.
            NoRoomError: if it has looked for a place long enough.
        """
        gang = self._line.look()
        if gang.stopping:
            raise StoppedError("stopped before its workers had a place")
        size = self._possible(gang)
        now_s = self._clock()
        if size is not None:
            self._searching_s = None
            self._began(now_s)
            return size
        if self._searching_s is None:
            self._searching_s = now_s
        if now_s - self._searching_s > ROOM_LIMIT_S:
            raise NoRoomError(f"no place for {min(self._sizes)} workers in {ROOM_LIMIT_S:g} s")
        return None

    def resize(self, *, workers: int, on: Collection[str]) -> int | None:
        """Workers of the gang that takes the place of the running one now; None: it trains on.

        Args:
            workers: of the running gang.
            on: ids of the nodes that it runs on.

        Raises:
            NoRoomError: if it has to leave a node and there is no other; it is saved.
        """
        gang = self._line.look()
        now_s = self._clock()
        if self._begun_s is not None and self._start_s is None and gang.left_s is not None:
            self._start_s = now_s - self._begun_s
        must_leave = bool(set(on) & set(self._cluster.draining()))
        if not gang.pausing:
            if must_leave or self._should_grow(gang, workers=workers, now_s=now_s):
                self._line.pause()
                self._asked_s = now_s
            return None
        if gang.saved is None:
            if now_s - self._asked_s > SAVE_LIMIT_S:
                self._let_go_on()
            return None
        size = self._possible(gang)
        if must_leave and size is None:
            raise NoRoomError("its node is taken away and there is no other")
        if size is None or not (must_leave or (size > workers and self._line.may_grow())):
            self._let_go_on()  # what it should have grown into is gone again
            return None
        self._began(now_s)
        return size

    def _began(self, now_s: float) -> None:
        self._begun_s, self._start_s = now_s, None
        self._looked_s, self._could_be = now_s, 0

    def _let_go_on(self) -> None:
        self._line.go_on()
        self._could_be = 0

    def _possible(self, gang: GangState) -> int | None:
        return largest(self._sizes, needs=self._needs, nodes=self._cluster.free(gang.group))

    def _should_grow(self, gang: GangState, *, workers: int, now_s: float) -> bool:
        """True if two looks in a row find room, and the new gang would finish sooner."""
        if workers == max(self._sizes) or now_s - self._looked_s < LOOK_S:
            return False
        self._looked_s = now_s
        before, self._could_be = self._could_be, self._possible(gang) or 0
        size = min(before, self._could_be)
        return size > workers and self._pays(gang, share=workers / size) and self._line.may_grow()

    def _pays(self, gang: GangState, *, share: float) -> bool:
        """Whether what is left would take longer than a start and ``share`` of it."""
        if gang.left_s is None or self._start_s is None:
            return False  # it has not logged a step yet
        return gang.left_s * (1 - share) > self._start_s

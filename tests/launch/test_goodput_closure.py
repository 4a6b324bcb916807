"""Whatever happens, no second of any rank is lost or counted twice."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.cascade.goodput import Goodput
from orchestrator.cascade.goodput_rows import Row
from tests.beats import FakeRank, gang, gang_end, stage_end, stage_start

PHASES = (
    "start_up",
    "compile",
    "data_wait",
    "compute",
    "communication",
    "save_blocked",
    "evaluation",
)
# Numbers of which sums are exact: what is lost is then lost by the ledger.
moments = st.integers(0, 64).map(lambda sixteenths: sixteenths / 16)
spans = st.dictionaries(st.sampled_from(PHASES), moments, min_size=1, max_size=4)


class World:
    """Stages and gangs as they come and go, and the rank-seconds that pass meanwhile.

    ``wall`` counts them without the ledger's help: from one gang's end to the next, by its size.
    """

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self._draw = draw
        self.now = 0.0
        self.rows: list[Row] = []
        self.wall = 0.0

    def live(self) -> None:
        """One to three starts of the run."""
        for attempt in range(1, self._draw(st.integers(1, 3)) + 1):
            self._ledger = Goodput(attempt=attempt, earlier=self.rows)
            is_killed = self._stage()
            self.now += self._draw(moments) if is_killed else 0.0
            self.rows += self._kept

    def _stage(self) -> bool:
        """A stage's turn; True if the driver is killed in its middle."""
        since = self.now
        self._tell(stage_start(self.now, workers=self._draw(st.integers(1, 3))))
        sizes = self._draw(st.lists(st.integers(1, 4), max_size=3))
        for number, size in enumerate(sizes):
            self._pass()
            self._gang(size, token=f"{since}-{number}")
            is_last = number == len(sizes) - 1
            if is_last and self._draw(st.booleans()):
                self._keep()
                self.wall += size * (self.now - since)
                return True
            ended = self.now
            self._tell(gang_end(self.now, failed=self._draw(st.booleans())))
            self._pass()
            self._beats(max_size=2)  # too late
            if is_last:
                ended = self.now
            self.wall += size * (ended - since)
            since = ended
        self._tell(stage_end(self.now, status=self._draw(st.sampled_from(["FINISHED", "FAILED"]))))
        self._keep()
        return False

    def _gang(self, size: int, *, token: str) -> None:
        self._tell(gang(self.now, workers=size))
        skew = self._draw(st.sampled_from([0.0, 0.0, 5.0, -5.0]))
        self._ranks = [
            FakeRank(self.now + skew - self._draw(moments), token, rank=rank, ranks=size)
            for rank in range(size)
        ]
        self._beats(max_size=8)

    def _beats(self, *, max_size: int) -> None:
        for rank in self._draw(st.lists(st.sampled_from(self._ranks), max_size=max_size)):
            beat = rank.spends(self._draw(spans), step=self._draw(st.integers(0, 30)))
            if self._draw(st.booleans()):
                self.now = max(self.now, beat["time"])
            self._tell(beat)
            self._look()

    def _pass(self) -> None:
        self.now += self._draw(moments)

    def _tell(self, event: dict[str, Any]) -> None:
        self._ledger.take(event, now=self.now)

    def _look(self) -> None:
        """Rows in the middle close too."""
        check(self._ledger.rows(now=self.now))

    def _keep(self) -> None:
        self._kept = self._ledger.rows(now=self.now)


def check(rows: list[Row]) -> None:
    for row in rows:
        assert sum(row.seconds.values()) == pytest.approx(row.end - row.start, abs=1e-6)
        assert min(row.seconds.values(), default=0.0) >= -1e-9


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_all_categories_of_all_rows_sum_to_the_wall_time_of_all_ranks(data: st.DataObject) -> None:
    world = World(data.draw)
    world.live()
    check(world.rows)
    total = sum(sum(row.seconds.values()) for row in world.rows)
    assert total == pytest.approx(world.wall, abs=1e-6)

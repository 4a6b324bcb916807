"""How many workers a gang has, and when it is started anew, by a clock and nodes of the test."""

from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.cascade.board import GangState
from orchestrator.cascade.executor import NoRoomError
from orchestrator.cascade.planner import LOOK_S, ROOM_LIMIT_S, SAVE_LIMIT_S, Cluster, Planner
from orchestrator.errors import StoppedError

START_S = 20.0  # from the decision on a gang to its first logged step
LONG_S = 3600.0


class World:
    """A cluster and a gang on it; time passes when the test says so.

    Attributes:
        nodes: CPUs that the gang could have on each node.
        gang: what the board knows of it.
        workers: of the running gang.
        on: the nodes that it runs on.
    """

    def __init__(self, *, sizes: tuple[int, ...] = (1, 2, 4), **nodes: float) -> None:
        self.nodes: dict[str, float] = nodes
        self.draining: set[str] = set()
        self.gang = GangState()
        self.workers = 0
        self.on: set[str] = set()
        self.others_wait = False
        self.now_s = 1000.0
        self.planner = Planner(
            line=self,
            cluster=Cluster(free=self._free, draining=lambda: self.draining),
            sizes=sizes,
            needs={"CPU": 1.0},
            clock=lambda: self.now_s,
        )

    def _free(self, group: str | None) -> list[Mapping[str, float]]:
        return [{"CPU": cpus} for node, cpus in self.nodes.items() if node not in self.draining]

    def look(self) -> GangState:
        return self.gang

    def may_grow(self) -> bool:
        return not self.others_wait

    def pause(self) -> None:
        self.gang.pausing, self.gang.saved = True, None

    def go_on(self) -> None:
        self.gang.pausing, self.gang.saved = False, None

    def start(self, *, left_s: float | None = LONG_S) -> int:
        """A gang starts on what there is and logs its first step START_S later."""
        size = self.planner.start()
        assert size is not None
        self.run(size, left_s=left_s)
        return size

    def run(self, size: int, *, left_s: float | None = LONG_S) -> None:
        self.gang = GangState(placed=size, left_s=left_s)
        self.workers = size
        self.on = set(self.nodes)
        self.now_s += START_S
        assert self.resize() is None

    def resize(self, *, after_s: float = 1.0) -> int | None:
        self.now_s += after_s
        return self.planner.resize(workers=self.workers, on=self.on)

    def looks(self, count: int) -> list[int | None]:
        """What comes of so many looks for more room."""
        return [self.resize(after_s=LOOK_S) for _ in range(count)]


def test_a_gang_starts_with_what_there_is_in_a_legal_size() -> None:
    assert World(a=2.0, b=2.0).start() == 4
    assert World(a=2.0, b=1.0).start() == 2  # three do not split the batch
    assert World(a=9.0).start() == 4


def test_a_stage_with_too_little_room_waits_and_then_gives_others_a_turn() -> None:
    world = World(sizes=(2, 4), a=1.0)
    assert world.planner.start() is None
    world.now_s += ROOM_LIMIT_S
    assert world.planner.start() is None
    world.now_s += 1
    with pytest.raises(NoRoomError, match="no place for 2 workers"):
        world.planner.start()


def test_a_wait_for_room_begins_anew_after_a_gang_has_started() -> None:
    world = World(sizes=(2, 4), a=1.0)
    assert world.planner.start() is None
    world.nodes["b"] = 1.0
    world.now_s += ROOM_LIMIT_S
    assert world.start() == 2
    del world.nodes["b"]
    world.now_s += ROOM_LIMIT_S
    assert world.planner.start() is None


def test_no_gang_starts_for_a_stage_that_should_end() -> None:
    world = World(a=4.0)
    world.gang.stopping = True
    with pytest.raises(StoppedError):
        world.planner.start()


def test_a_lost_node_shrinks_the_gang_at_once() -> None:
    world = World(a=2.0, b=2.0)
    assert world.start() == 4
    del world.nodes["b"]
    assert world.start() == 2


def test_a_gang_grows_only_once_it_is_saved() -> None:
    world = World(a=2.0)
    world.start()
    world.nodes["b"] = 2.0
    assert world.looks(2) == [None, None]
    assert world.gang.pausing
    assert world.resize() is None
    world.gang.saved = 7
    assert world.resize() == 4


def test_a_node_must_be_there_at_two_looks() -> None:
    world = World(a=2.0)
    world.start()
    for _ in range(3):
        world.nodes["b"] = 2.0
        world.looks(1)
        del world.nodes["b"]
        world.looks(1)
    assert not world.gang.pausing


def test_room_for_no_larger_legal_size_is_left_alone() -> None:
    world = World(a=2.0)
    world.start()
    world.nodes["b"] = 1.0
    world.looks(3)
    assert not world.gang.pausing


def test_a_gang_that_runs_on_all_that_it_may_is_left_alone() -> None:
    world = World(a=4.0)
    world.start()
    world.nodes["b"] = 4.0
    world.looks(3)
    assert not world.gang.pausing


@pytest.mark.parametrize(("left_s", "grows"), [(2 * START_S, False), (2 * START_S + 5, True)])
def test_a_restart_must_pay(left_s: float, grows: bool) -> None:
    """From two to four, half of what is left is saved: a start must take less than that."""
    world = World(a=2.0)
    assert world.planner.start() == 2
    world.now_s -= 1.0  # the first look is a second after the step
    world.run(2, left_s=left_s)
    world.nodes["b"] = 2.0
    world.looks(2)
    assert world.gang.pausing is grows


def test_a_gang_that_has_not_made_a_step_is_left_alone() -> None:
    world = World(a=2.0)
    world.start(left_s=None)
    world.nodes["b"] = 2.0
    world.looks(3)
    assert not world.gang.pausing


def test_room_that_a_waiting_stage_could_have_is_left_alone() -> None:
    world = World(a=2.0)
    world.start()
    world.nodes["b"] = 2.0
    world.others_wait = True
    world.looks(3)
    assert not world.gang.pausing
    world.others_wait = False
    world.looks(1)
    assert world.gang.pausing


@pytest.mark.parametrize("taken_by", ["a node that is gone", "a stage that came"])
def test_room_that_is_gone_when_the_gang_is_saved_lets_it_train_on(taken_by: str) -> None:
    world = World(a=2.0)
    world.start()
    world.nodes["b"] = 2.0
    world.looks(2)
    if taken_by == "a node that is gone":
        del world.nodes["b"]
    else:
        world.others_wait = True
    world.gang.saved = 7
    assert world.resize() is None
    assert not world.gang.pausing


def test_a_save_that_does_not_come_lets_the_gang_train_on() -> None:
    world = World(a=2.0)
    world.start()
    world.nodes["b"] = 2.0
    world.looks(2)
    assert world.resize(after_s=SAVE_LIMIT_S) is None
    assert world.gang.pausing
    assert world.resize(after_s=1.0) is None
    assert not world.gang.pausing
    world.looks(2)
    assert world.gang.pausing, "it is asked again later"


@pytest.mark.parametrize(("sizes", "goes_on_with"), [((1, 2, 4), 2), ((2,), 2)])
def test_a_gang_leaves_a_drained_node_once_it_is_saved(sizes: Any, goes_on_with: int) -> None:
    world = World(sizes=sizes, a=2.0, b=2.0)
    world.start()
    world.draining = {"b"}
    assert world.resize() is None
    assert world.gang.pausing
    world.gang.saved = 3
    assert world.resize() == goes_on_with


def test_a_drained_node_of_others_is_none_of_its_business() -> None:
    world = World(a=4.0)
    world.start()
    world.draining = {"z"}
    world.looks(3)
    assert not world.gang.pausing


def test_a_saved_gang_without_another_node_waits_for_one() -> None:
    world = World(sizes=(2,), a=2.0)
    world.start()
    world.draining = {"a"}
    world.resize()
    world.gang.saved = 3
    with pytest.raises(NoRoomError, match="there is no other"):
        world.resize()


def test_a_gang_that_failed_while_it_was_asked_is_asked_anew() -> None:
    world = World(a=2.0, b=2.0)
    world.start()
    world.draining = {"b"}
    world.resize()
    assert world.start() == 2  # it failed; the board forgets what the last gang was asked
    world.on = {"a", "b"}
    world.resize()
    assert world.gang.pausing

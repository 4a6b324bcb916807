"""Which stages run when: room for two, stages that end when they are told."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from orchestrator.cascade.attempt import begin
from orchestrator.cascade.executor import EventSink, NoRoomError
from orchestrator.cascade.room import fit, least, missing
from orchestrator.cascade.run import Graph, Outcome
from orchestrator.errors import StoppedError, UnavailableError, UserError
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.train.job import StageJob, StageResult
from tests.cascades import imagen_recipe
from tests.tiny import tiny_tree

DATA = {"train": "a" * 64, "eval": "b" * 64}
ROOM = ({"CPU": 2.0},)
LIMIT_S = 20.0  # for a thread to get its turn; a failure waits for it, a success does not


@pytest.fixture(autouse=True)
def no_stage_outlives_its_test() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name.startswith("stage_"):
            thread.join(LIMIT_S)
            assert not thread.is_alive()


class HeldExecutor:
    """Stages run until the test ends them; a place is free once its stage has ended."""

    side_by_side = True

    def __init__(self) -> None:
        self._ends: dict[str, Future[StageResult]] = {}
        self._changed = threading.Condition()
        self._asked: list[tuple[str, set[str]]] = []
        self.lost: UnavailableError | None = None
        self.leaving: str | None = None
        self.waits: tuple[set[str], set[str]] = (set(), set())

    def fits(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
        with self._changed:
            self._asked.append((job.stage, {other.stage for other in beside}))
            self._changed.notify_all()
        held = [missing(other.spec.compute, placed=0) for other in beside]
        return fit([*held, least(job.spec.compute)], nodes=ROOM)

    def wait_for_room(self, jobs: tuple[StageJob, ...], *, beside: tuple[StageJob, ...]) -> None:
        self.waits = ({job.stage for job in jobs}, {job.stage for job in beside})

    def check(self) -> str | None:
        if self.lost is not None:
            raise self.lost
        return self.leaving

    def run(self, job: StageJob, *, on_event: Any, stop: threading.Event) -> StageResult:
        end: Future[StageResult] = Future()
        with self._changed:
            self._ends[job.stage] = end
            self._changed.notify_all()
        result = end.result(LIMIT_S)
        on_event({"kind": "model", "stage": job.stage, "name": "m", "uri": "u", "sha256": "c" * 64})
        return result

    def running(self, count: int) -> set[str]:
        """Waits until so many stages run; says which."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self._ends) >= count, LIMIT_S), self._ends
            return set(self._ends)

    def turned_away(self, stage: str, *, beside: set[str]) -> None:
        """Waits until a stage has found no room twice; what comes behind it had a turn too."""
        with self._changed:
            asked = (stage, beside)
            assert self._changed.wait_for(lambda: self._asked.count(asked) >= 2, LIMIT_S)

    def end(
        self,
        *stages: str,
        error: Exception | None = None,
        status: Literal["done", "stopped"] = "done",
    ) -> None:
        with self._changed:
            ends = [self._ends.pop(stage) for stage in stages]
        for one in ends:
            if error is None:
                one.set_result(StageResult(status=status, step=1))
            else:
                one.set_exception(error)


def recipe_of(**workers: int) -> Recipe:
    """Autoencoders that need nothing, by name and size."""
    tree = tiny_tree("/nowhere")
    first = tree["stages"][0]
    first["train"] |= {"batch": 8, "micro_batch": 1}
    tree["stages"] = [
        first | {"id": name, "compute": {"workers": size}} for name, size in workers.items()
    ]
    return parse_recipe(tree, origin="stages")


@pytest.fixture
def start(tmp_path: Path):
    """Walks a recipe's graph in a thread."""
    with ThreadPoolExecutor(1) as pool:

        def walk(
            recipe: Recipe,
            executor: HeldExecutor,
            *,
            on_event: EventSink = lambda event: None,
            stop: threading.Event | None = None,
        ) -> Future[dict[str, Outcome]]:
            store = open_store(str(tmp_path / "run"))
            graph = Graph(
                recipe=recipe,
                store=store,
                attempt=begin(store, recipe, data=DATA),
                data=DATA,
                executor=executor,
                on_event=on_event,
                stop=stop or threading.Event(),
                logs=tmp_path / "logs",
            )
            return pool.submit(graph.run)

        yield walk


def rounds(executor: HeldExecutor, *, sizes: tuple[int, ...]) -> list[set[str]]:
    """Ends all that runs, again and again; what ran at each time."""
    seen: list[set[str]] = []
    for size in sizes:
        seen.append(executor.running(size))
        executor.end(*seen[-1])
    return seen


def test_seven_equal_stages_in_room_for_two_take_four_rounds(start: Any) -> None:
    executor = HeldExecutor()
    walk = start(recipe_of(**{f"s{number}": 1 for number in range(7)}), executor)
    seen = rounds(executor, sizes=(2, 2, 2, 1))
    assert [len(one) for one in seen] == [2, 2, 2, 1]
    assert {one.status for one in walk.result(LIMIT_S).values()} == {"done"}


def test_what_most_stages_wait_for_one_after_another_goes_first(start: Any, tmp_path: Path) -> None:
    executor = HeldExecutor()
    walk = start(imagen_recipe(tmp_path, workers=1), executor)
    assert executor.running(2) == {"base", "tsr1"}
    executor.end("base")
    assert executor.running(2) == {"tsr1", "base-guided"}  # and not ssr1, which is ready as well
    left = {stage.id for stage in imagen_recipe(tmp_path).stages} - {"base"}
    while left:
        running = executor.running(1)
        executor.end(*running)
        left -= running
    assert {one.status for one in walk.result(LIMIT_S).values()} == {"done"}


def test_a_place_is_taken_again_while_its_neighbour_runs_on(start: Any) -> None:
    executor = HeldExecutor()
    walk = start(recipe_of(long=1, a=1, b=1, c=1), executor)
    for short in "abc":
        assert executor.running(2) == {"long", short}
        executor.end(short)
    executor.end("long")
    assert {one.status for one in walk.result(LIMIT_S).values()} == {"done"}


def test_a_stage_that_does_not_fit_waits_while_smaller_ones_behind_it_run(start: Any) -> None:
    executor = HeldExecutor()
    walk = start(recipe_of(small=1, big=2, behind=1), executor)
    assert rounds(executor, sizes=(2, 1)) == [{"small", "behind"}, {"big"}]
    assert walk.result(LIMIT_S)["big"].status == "done"


def test_a_stage_that_was_passed_over_once_keeps_its_room(start: Any) -> None:
    executor = HeldExecutor()
    walk = start(recipe_of(small=1, big=2, a=1, b=1, c=1), executor)
    assert executor.running(2) == {"small", "a"}  # once, a later stage goes first
    executor.end("small")
    executor.turned_away("big", beside={"a"})
    assert executor.running(1) == {"a"}  # `b` and `c` would fit
    executor.end("a")
    assert executor.running(1) == {"big"}
    executor.end("big")
    assert executor.running(2) == {"b", "c"}
    executor.end("b", "c")
    assert {one.status for one in walk.result(LIMIT_S).values()} == {"done"}


def test_a_stage_larger_than_the_cluster_starts_when_all_others_are_over(start: Any) -> None:
    executor = HeldExecutor()
    walk = start(recipe_of(huge=8, small=1, other=2), executor)
    seen = rounds(executor, sizes=(1, 1))
    assert seen == [{"small"}, {"other"}]
    assert executor.running(1) == {"huge"}
    executor.end("huge")  # it may run: the cluster has grown in the meantime
    assert walk.result(LIMIT_S)["huge"].status == "done"


def test_a_stage_without_a_place_waits_for_another_turn(start: Any) -> None:
    executor = HeldExecutor()
    events: list[dict[str, Any]] = []
    walk = start(recipe_of(first=1, big=2, last=1), executor, on_event=events.append)
    assert executor.running(2) == {"first", "last"}
    executor.end("first", error=NoRoomError("needs 1 CPU, the nodes have: nothing"))
    executor.end("last")
    assert executor.running(1) == {"big"}  # which was passed over when the others started
    executor.end("big")
    assert executor.running(1) == {"first"}
    executor.end("first")
    assert {one.status for one in walk.result(LIMIT_S).values()} == {"done"}
    notes = [(one["stage"], one["text"]) for one in events if one["kind"] == "note"]
    assert notes == [("first", "needs 1 CPU, the nodes have: nothing; waits for room")]


def test_a_stage_without_a_place_is_stopped_by_a_signal(start: Any) -> None:
    executor = HeldExecutor()
    stop = threading.Event()
    walk = start(recipe_of(only=1), executor, stop=stop)
    executor.running(1)
    stop.set()
    executor.end("only", error=NoRoomError("no room"))
    assert walk.result(LIMIT_S)["only"].status == "stopped"


def test_a_failure_blocks_what_needs_it_and_nothing_else(start: Any) -> None:
    tree = tiny_tree("/nowhere", workers=1)
    tree["stages"].insert(1, tree["stages"][0] | {"id": "other"})
    again = {"id": "again", "starts_from": "other", "train": tree["stages"][0]["train"]}
    tree["stages"].append(again)
    executor = HeldExecutor()
    walk = start(parse_recipe(tree, origin="branching"), executor)
    assert executor.running(2) == {"autoencoder", "other"}
    executor.end("autoencoder", error=UserError("clips are too small"))
    executor.end("other")
    assert executor.running(1) == {"again"}
    executor.end("again")
    outcomes = walk.result(LIMIT_S)
    assert [outcomes[one].status for one in ("autoencoder", "other", "again")] == [
        *("failed", "done", "done")
    ]
    assert {one: how.missing for one, how in outcomes.items() if how.status == "blocked"} == {
        "encode": ("autoencoder",),
        "dit": ("encode",),
        "evaluate": ("dit",),
    }


def test_a_lost_cluster_ends_the_walk_without_its_stages(start: Any) -> None:
    executor = HeldExecutor()
    events: list[dict[str, Any]] = []
    walk = start(recipe_of(hangs=1, waits=2), executor, on_event=events.append)
    executor.running(1)
    executor.lost = UnavailableError("lost Ray")
    with pytest.raises(UnavailableError, match="lost Ray"):
        walk.result(LIMIT_S)
    assert executor.running(1) == {"hangs"}
    executor.end("hangs")
    ends = [(one["stage"], one["status"]) for one in events if one["kind"] == "end"]
    assert ends[:2] == [("hangs", "FAILED"), (None, "FAILED")]


def test_a_machine_that_is_taken_away_lets_its_stages_save_and_stop(start: Any) -> None:
    executor = HeldExecutor()
    events: list[dict[str, Any]] = []
    stop = threading.Event()
    walk = start(recipe_of(one=1, waits=2), executor, on_event=events.append, stop=stop)
    executor.running(1)
    executor.leaving = "the node goes"
    assert stop.wait(LIMIT_S)
    executor.end("one", status="stopped")
    outcomes = walk.result(LIMIT_S)
    assert {one.status for one in outcomes.values()} == {"stopped"}
    notes = [(one["stage"], one["text"]) for one in events if one["kind"] == "note"]
    assert notes == [("one", "the node goes: saves and stops")]


def test_gangs_are_told_who_waits_for_room_beside_them(start: Any) -> None:
    executor = HeldExecutor()
    walk = start(recipe_of(small=1, big=2), executor)
    executor.turned_away("big", beside={"small"})
    assert executor.waits == ({"big"}, {"small"})
    executor.end("small")
    assert executor.running(1) == {"big"}
    executor.end("big")
    walk.result(LIMIT_S)
    assert executor.waits == (set(), {"big"})


def test_a_second_signal_does_not_wait_for_a_stage_that_hangs(tmp_path: Path) -> None:
    class Interrupted(HeldExecutor):
        def fits(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
            if not beside:
                return True
            self.running(1)
            raise StoppedError("as the handler of a second signal")

    executor = Interrupted()
    recipe = recipe_of(hangs=1, other=1)
    store = open_store(str(tmp_path / "run"))
    graph = Graph(
        recipe=recipe,
        store=store,
        attempt=1,
        data=DATA,
        executor=executor,
        on_event=lambda event: None,
        stop=threading.Event(),
        logs=tmp_path / "logs",
    )
    with pytest.raises(StoppedError):
        graph.run()
    assert executor.running(1) == {"hangs"}
    executor.end("hangs")

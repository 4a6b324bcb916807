"""A Ray that is lost, as its driver sees it: without one."""

import socket
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, LocalRayletDiedError, RayError, RpcError

from orchestrator.cascade import board as board_room
from orchestrator.cascade import ray_executor
from orchestrator.cascade.board import BoardHooks, Reader
from orchestrator.cascade.head import Head, reaching_ray
from orchestrator.errors import RushesError, UnavailableError
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.job import StageJob
from tests.tiny import tiny_tree

LOST = [ActorDiedError(), LocalRayletDiedError(), RpcError("unavailable"), ConnectionError("reset")]
LIMIT_S = 20.0


class Clock:
    """Each look is a second later than the one before."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


class FakeBoard:
    """An actor whose every method raises, here and now; `ray.get` has nothing left to do."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=self._fail)

    def _fail(self, *args: Any) -> Any:
        raise self._error


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def test_a_head_that_listens_is_reached_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        Head(f"127.0.0.1:{server.getsockname()[1]}", limit_s=0.0).reach()


def test_a_head_that_is_gone_says_what_to_do() -> None:
    address = free_address()
    with pytest.raises(UnavailableError, match=f"at {address} for 0 s; start the same command"):
        Head(address, limit_s=0.0).reach()


def test_a_head_is_looked_for_now_and_then() -> None:
    clock = Clock()
    head = Head(free_address(), limit_s=0.0, clock=clock)
    for _ in range(4):
        head.check()
    with pytest.raises(UnavailableError):
        head.check()


@pytest.mark.parametrize("error", LOST)
def test_what_ray_raises_in_the_driver_is_the_outside(error: Exception) -> None:
    with pytest.raises(UnavailableError, match="lost Ray: ") as failure, reaching_ray():
        raise error
    (line,) = str(failure.value).splitlines()
    assert "start the same command again" in line


@pytest.fixture
def job() -> StageJob:
    recipe = parse_recipe(tiny_tree("/nowhere", workers=1), origin="tiny")
    return StageJob(recipe=recipe, stage="autoencoder", run="/nowhere/run", attempt=1)


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes an executor on a node with room, whose board is lost with an error."""

    def make(error: Exception) -> ray_executor.RayExecutor:
        context = SimpleNamespace(gcs_address=free_address(), get_node_id=lambda: "n")
        monkeypatch.setattr(ray_executor, "open_board", lambda: FakeBoard(error))
        monkeypatch.setattr(ray_executor.ray, "get_runtime_context", lambda: context)
        monkeypatch.setattr(ray_executor, "usable_nodes", lambda: {"n": {"CPU": 2.0}})
        monkeypatch.setattr(Head, "reach", lambda self: None)
        return ray_executor.RayExecutor(scratch=tmp_path, logs=tmp_path, private=False)

    return make


def test_a_driver_hears_that_its_own_node_is_drained(
    executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = executor(RpcError("unused"))
    monkeypatch.setattr(Head, "check", lambda self: True)
    monkeypatch.setattr(ray_executor, "draining_nodes", lambda: {"another"})
    assert one.check() is None
    monkeypatch.setattr(ray_executor, "draining_nodes", lambda: {"another", "n"})
    assert one.check() == "the driver's node is about to be taken away"


def test_gangs_stay_as_they_are_while_another_stage_could_start_beside_them(
    executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gang of 1..4 holds one of four CPUs; what could be beside it is up to three."""
    told: list[bool] = []
    one = executor(RpcError("unused"))
    one._board = SimpleNamespace(
        placed=SimpleNamespace(remote=lambda: {"autoencoder": 1}),
        let_grow=SimpleNamespace(remote=told.append),
    )
    monkeypatch.setattr(ray_executor.ray, "get", lambda answer: answer)
    monkeypatch.setattr(ray_executor, "usable_nodes", lambda: {"n": {"CPU": 4.0}})

    def stage(**compute: int) -> StageJob:
        tree = tiny_tree("/nowhere")
        tree["stages"][0]["train"] |= {"batch": 12, "micro_batch": 1}
        tree["stages"][0]["compute"] = compute
        recipe = parse_recipe(tree, origin="room")
        return StageJob(recipe=recipe, stage="autoencoder", run="/nowhere/run", attempt=1)

    elastic = stage(workers=4, min_workers=1)
    for waiting in ((stage(workers=3),), (stage(workers=3),), (stage(workers=4),), ()):
        one.wait_for_room(waiting, beside=(elastic,))
    assert told == [False, True]  # four would have to wait for the gang's end in any case
    one.wait_for_room((stage(workers=3),), beside=(stage(workers=4),))
    assert told == [False, True]  # a gang of fixed size does not grow


@pytest.mark.parametrize("error", LOST)
def test_looking_for_room_on_a_lost_cluster_is_the_outside(
    executor: Any, job: StageJob, error: Exception
) -> None:
    with pytest.raises(UnavailableError, match="lost Ray"):
        executor(error).fits(job, beside=(job,))


@pytest.mark.parametrize("error", LOST)
def test_a_stage_on_a_lost_cluster_is_the_outside(
    executor: Any, job: StageJob, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(*args: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(ray_executor, "train", lose)
    with pytest.raises(UnavailableError, match="start the same command again"):
        executor(error).run(job, on_event=lambda _: None, stop=threading.Event())


def test_a_reader_says_that_events_may_be_missing() -> None:
    lost = FakeBoard(ActorDiedError())
    reader = Reader(lost, stage="dit", sink=lambda _: None, stop=threading.Event())
    with pytest.raises(RayError):
        reader.close()


def test_a_sink_that_fails_stops_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneEvent:
        """Has an event; keeps whether the stage was asked to stop."""

        def __init__(self) -> None:
            self.stopped: list[str] = []
            self.take = SimpleNamespace(remote=lambda stage, wait_s: ['{"kind": "note"}'])
            self.stop = SimpleNamespace(remote=self.stopped.append)

    def full(event: dict[str, Any]) -> None:
        raise UnavailableError("tracking spool: no space left")

    monkeypatch.setattr(board_room.ray, "get", lambda answer: answer)
    board = OneEvent()
    reader = Reader(board, stage="dit", sink=full, stop=threading.Event())
    with pytest.raises(RushesError, match="no space left"):
        reader.close()
    assert board.stopped == ["dit"]


def test_a_worker_without_a_board_is_told_to_save() -> None:
    hooks = BoardHooks(FakeBoard(ActorDiedError()), stage="dit")
    hooks._thread.join(LIMIT_S)
    assert hooks.should_stop()

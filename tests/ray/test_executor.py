"""Ray's side of a training stage: events out, the stop flag in, whose fault a failure is."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cascade.executor import NoRoomError
from orchestrator.errors import UserError
from orchestrator.recipe.load import load_recipe
from orchestrator.train.job import StageJob, StageResult
from tests.ray.conftest import ROOT, Head

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(head.env)
    os.environ["RAY_ADDRESS"] = head.gcs
    from orchestrator.launch.ray_session import open_session

    session = open_session(
        load_recipe(ROOT / "jobs" / "sora_debug.yaml"), folder=tmp_path_factory.mktemp("ray")
    )
    yield
    session.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def executor(cluster: None, tmp_path: Path):
    """Makes an executor whose ranks run a stand-in of tests/ray/workers.py."""
    from orchestrator.cascade.ray_executor import RayExecutor

    def make(worker: str) -> RayExecutor:
        return RayExecutor(
            scratch=tmp_path / "scratch",
            logs=tmp_path / "logs",
            private=False,
            worker=f"tests.ray.workers:{worker}",
        )

    return make


@pytest.fixture
def job(recipe_file: Any, tmp_path: Path):
    """Makes a job with other processes than the debug recipe's."""
    path = recipe_file(stages=("autoencoder",))

    def make(**compute: int) -> StageJob:
        settings = [f"stages.autoencoder.compute.{key}={one}" for key, one in compute.items()]
        recipe = load_recipe(path, overrides=settings)
        return StageJob(recipe=recipe, stage="autoencoder", run=str(tmp_path / "run"), attempt=1)

    return make


@pytest.fixture
def run_stage(executor: Any, job: Any):
    def run(worker: str, *, on_event: Any, stop: threading.Event) -> StageResult:
        return executor(worker).run(job(), on_event=on_event, stop=stop)

    return run


@pytest.fixture
def taken(cluster: None):
    """Holds one of the two CPUs as somebody else's group."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    group = placement_group([{"CPU": 1}])
    ray.get(group.ready())
    yield
    remove_placement_group(group)


def test_events_arrive_in_order_and_a_stop_ends_the_stage(run_stage: Any) -> None:
    stop = threading.Event()
    gangs: list[dict[str, Any]] = []
    steps: list[int] = []

    def on_event(event: dict[str, Any]) -> None:
        if event["kind"] == "gang":
            gangs.append({name: one for name, one in event.items() if name != "time"})
            return
        steps.append(event["step"])
        if event["step"] >= 3:
            stop.set()

    result = run_stage("steps_until_stopped", on_event=on_event, stop=stop)

    assert result.status == "stopped"
    assert steps == list(range(1, result.step + 1))
    head = {"kind": "gang", "stage": "autoencoder"}
    assert gangs == [
        head | {"what": "started", "workers": 2},
        head | {"what": "ending", "failed": False},
        head | {"what": "gone"},
    ]


def test_a_user_error_of_one_rank_ends_the_stage_with_its_own_line(run_stage: Any) -> None:
    starts: list[dict[str, Any]] = []
    with pytest.raises(UserError) as failure:
        run_stage("refuses", on_event=starts.append, stop=threading.Event())
    assert str(failure.value) == "data.train.uri=nowhere: no index there"
    told = [event.get("what", event["kind"]) for event in starts]
    assert told == ["started", "note", "ending", "gone"], "it started again"
    assert starts[2]["failed"]


def test_room_is_what_ray_has_left(executor: Any, job: Any, taken: None) -> None:
    import ray

    one = executor("refuses")
    small = job(workers=1)
    assert one.fits(job(workers=2), beside=())  # once nobody else is there
    assert not one.fits(small, beside=(small,))  # the free CPU is the first one's
    ray.get(one._board.place.remote(small.stage, 1))  # ... unless that has its place already
    assert one.fits(small, beside=(small,))


def test_a_gang_that_finds_no_place_has_not_started(
    executor: Any, job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "1")
    notes: list[str] = []
    with pytest.raises(NoRoomError, match="needs 1 worker with 3 CPU each on one node"):
        executor("refuses").run(
            job(workers=1, cpus_per_worker=3),
            on_event=lambda event: notes.append(event["text"]),
            stop=threading.Event(),
        )
    (note,) = notes
    assert note.endswith("the nodes have: 2 CPU, 1 GPU; waits for a larger cluster")


def test_a_plain_process_holds_its_gpu_and_sees_no_other(executor: Any, job: Any) -> None:
    one = executor("says_its_devices")
    plain = job(workers=0, gpus_per_worker=1)
    seen: list[str] = []
    result = one.run(
        plain,
        on_event=lambda event: seen.append(event.get("text", event["kind"])),
        stop=threading.Event(),
    )
    assert result.status == "done"
    assert seen == ["gang", "0"]
    assert not one.fits(plain, beside=(plain,))

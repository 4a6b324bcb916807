"""Ray's side of a training stage: events out, the stop flag in, whose fault a failure is."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
def run_stage(cluster: None, recipe_file: Any, tmp_path: Path):
    from orchestrator.cascade.ray_executor import RayExecutor

    def run(worker: str, *, on_event: Any, stop: threading.Event) -> StageResult:
        executor = RayExecutor(
            scratch=tmp_path / "scratch",
            logs=tmp_path / "logs",
            private=False,
            worker=f"tests.ray.workers:{worker}",
        )
        job = StageJob(
            recipe=load_recipe(recipe_file()),
            stage="autoencoder",
            run=str(tmp_path / "run"),
            attempt=1,
        )
        return executor.run(job, on_event=on_event, stop=stop)

    return run


def test_events_arrive_in_order_and_a_stop_ends_the_stage(run_stage: Any) -> None:
    stop = threading.Event()
    steps: list[int] = []

    def on_event(event: dict[str, Any]) -> None:
        steps.append(event["step"])
        if event["step"] >= 3:
            stop.set()

    result = run_stage("steps_until_stopped", on_event=on_event, stop=stop)

    assert result.status == "stopped"
    assert steps == list(range(1, result.step + 1))


def test_a_user_error_of_one_rank_ends_the_stage_with_its_own_line(run_stage: Any) -> None:
    starts: list[dict[str, Any]] = []
    with pytest.raises(UserError) as failure:
        run_stage("refuses", on_event=starts.append, stop=threading.Event())
    assert str(failure.value) == "data.train.uri=nowhere: no index there"
    assert [event["kind"] for event in starts] == ["note"], "the gang was started again"

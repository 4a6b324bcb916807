"""Four workers on two nodes: one node is lost, comes back, and is drained; one run through it all.

Steps pass a gate, so that every event falls between two steps that the test knows.
"""

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cascade.executor import DirectHooks
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.job import StageJob, StageResult
from tests.ray.conftest import Head
from tests.ray.workers import gate_of
from tests.tiny import tiny_tree

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

STEPS, SAVE_EVERY = 32, 5
LOST_AT, BACK_AT, DRAINED_AT = 7, 12, 18
DRAIN_S = 15
LIMIT_S = 240.0
OPEN = 10**9
STAGE = "autoencoder"


@dataclass
class Told:
    """Events of the run, and the times that the test took."""

    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    result: StageResult | None = None
    drained_at: float = 0.0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def event(self, event: dict[str, Any]) -> None:
        if event["kind"] == "note":  # how long loading took is another matter
            event = event | {"text": event["text"].partition(", loaded in ")[0]}
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def wait_for(self, kind: str, **values: Any) -> None:
        """Waits for an event with these values."""

        def is_there() -> bool:
            return any(one["kind"] == kind and values.items() <= one.items() for one in self.events)

        with self.changed:
            assert self.changed.wait_for(is_there, LIMIT_S), (kind, values, self.events[-10:])

    def notes(self) -> list[str]:
        return [one["text"] for one in self.events if one["kind"] == "note"]

    def steps(self) -> list[int]:
        return [one["step"] for one in self.events if one["kind"] == "metrics"]


def recipe_of(folder: Path, **compute: int) -> Recipe:
    tree = tiny_tree(folder)
    first = tree["stages"][0]
    first["train"] |= {"steps": STEPS, "batch": 8, "micro_batch": 1}
    first["compute"] = compute
    first["save"] = {"every_steps": SAVE_EVERY, "keep": STEPS}
    return parse_recipe(tree | {"stages": [first]}, origin="elastic")


def job_of(folder: Path, name: str, **compute: int) -> StageJob:
    run = folder / name / "run"
    run.parent.mkdir()
    return StageJob(recipe=recipe_of(folder, **compute), stage=STAGE, run=str(run), attempt=1)


def logged(job: StageJob) -> list[dict[str, Any]]:
    lines = (Path(job.run) / job.folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from orchestrator.data.sources import ensure_sources

    folder = tmp_path_factory.mktemp("elastic")
    ensure_sources(recipe_of(folder, workers=1), on_clips=lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def cluster(head: Head, folder: Path) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(head.env | {"RAY_ADDRESS": head.gcs})
    from orchestrator.launch.ray_session import open_session

    session = open_session(recipe_of(folder, workers=1), folder=folder)
    yield
    session.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def job(folder: Path) -> StageJob:
    return job_of(folder, "elastic", workers=4, min_workers=1)


@pytest.fixture(scope="module")
def told(head: Head, cluster: None, job: StageJob, folder: Path) -> Told:
    """The whole story; only the loss of the node may count as a failure."""
    from orchestrator.cascade import ray_train
    from orchestrator.cascade.ray_executor import RayExecutor
    from tests.ray.raylets import Raylet

    executor = RayExecutor(
        scratch=folder / "scratch",
        logs=folder / "logs",
        private=False,
        worker="tests.ray.workers:gated",
    )
    told, stop = Told(), threading.Event()
    raylets: list[Raylet] = []

    def node(name: str) -> Raylet:
        raylets.append(Raylet(head, name=name, cpus=2, log=folder / f"{name}.log"))
        return raylets[-1]

    def let_pass(step: int) -> None:
        fresh = gate_of(job).with_suffix(".new")
        fresh.write_text(str(step))
        fresh.replace(gate_of(job))

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(ray_train, "MAX_FAILURES", 1)
        try:
            first = node("first")
            let_pass(LOST_AT)
            end = pool.submit(executor.run, job, on_event=told.event, stop=stop)
            told.wait_for("progress", step=LOST_AT)
            first.kill()
            let_pass(BACK_AT)
            told.wait_for("progress", step=BACK_AT)
            second = node("second")
            told.wait_for("note", text=f"goes on with all 4 workers from step {BACK_AT + 1}")
            let_pass(DRAINED_AT)
            told.wait_for("progress", step=DRAINED_AT)
            second.drain(deadline_s=DRAIN_S)
            told.drained_at = time.time()
            told.wait_for("note", text=f"goes on with 2 workers (of 4) from step {DRAINED_AT + 1}")
            let_pass(OPEN)
            told.result = end.result(LIMIT_S)
        finally:
            stop.set()
            for raylet in raylets:
                raylet.close()
    return told


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> list[dict[str, Any]]:
    """The same recipe in one plain process."""
    import torch.distributed as dist

    from orchestrator.train.worker import run

    job = job_of(folder, "undisturbed", workers=0)
    run(job, hooks=DirectHooks(lambda event: None, threading.Event()))
    dist.destroy_process_group()
    return logged(job)


def test_the_run_is_done(told: Told) -> None:
    assert told.result == StageResult(status="done", step=STEPS)


def test_every_start_says_how_it_goes_on(told: Told) -> None:
    saved = LOST_AT - LOST_AT % SAVE_EVERY
    assert told.notes() == [
        f"goes on with 2 workers (of 4) from step {saved}",
        f"goes on with all 4 workers from step {BACK_AT + 1}",
        f"goes on with 2 workers (of 4) from step {DRAINED_AT + 1}",
    ]


def test_only_the_lost_node_had_steps_repeated(told: Told) -> None:
    back = [(one, after) for one, after in pairwise(told.steps()) if after != one + 1]
    assert back == [(LOST_AT, LOST_AT - LOST_AT % SAVE_EVERY + 1)]


def test_every_step_is_logged_once_with_the_ranks_that_trained_it(
    told: Told, job: StageJob
) -> None:
    rows = logged(job)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    saved = LOST_AT - LOST_AT % SAVE_EVERY
    ranks = [4] * saved + [2] * (BACK_AT + 1 - saved)
    ranks += [4] * (DRAINED_AT - BACK_AT) + [2] * (STEPS - DRAINED_AT - 1)
    assert [row["ranks"] for row in rows] == ranks


def test_each_gang_starts_from_the_state_that_was_saved(told: Told) -> None:
    texts = [one["text"].split() for one in told.events if one["kind"] == "state"]
    saved = {int(step): digest for what, step, digest in texts if what == "saved"}
    loaded = {int(step): digest for what, step, digest in texts if what == "loaded"}
    assert sorted(loaded) == [LOST_AT - LOST_AT % SAVE_EVERY, BACK_AT + 1, DRAINED_AT + 1]
    assert loaded == {step: saved[step] for step in loaded}
    assert len(set(saved.values())) == len(saved)


def test_the_same_clips_give_the_same_losses(
    told: Told, job: StageJob, undisturbed: list[dict[str, Any]]
) -> None:
    """Sums over ranks are rounded in another order; a batch of other clips differs far more."""
    here = [row["loss"] for row in logged(job)]
    straight = [row["loss"] for row in undisturbed]
    assert here == pytest.approx(straight, rel=1e-5)
    assert min(abs(one - after) / one for one, after in pairwise(straight)) > 1e-4


def test_a_drained_node_is_left_before_its_deadline(told: Told, job: StageJob) -> None:
    commit = f"{job.folder}/checkpoints/step-{DRAINED_AT + 1:08d}/COMMIT"
    index = Path(job.run) / commit
    assert index.stat().st_mtime < told.drained_at + DRAIN_S


def test_nothing_else_was_said(told: Told) -> None:
    assert not [note for note in told.notes() if not re.match(r"goes on with ", note)]

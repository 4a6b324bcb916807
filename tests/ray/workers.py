"""Workers that stand in for the trainer where only Ray's side is under test."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from orchestrator.errors import UserError
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob, StageResult

STEPS = 200


def steps_until_stopped(job: StageJob, *, hooks: Hooks) -> StageResult:
    """Says a step ten times a second; every rank looks at its own flag."""
    for step in range(1, STEPS + 1):
        if int(os.environ["RANK"]) == 0:
            hooks.event({"kind": "progress", "stage": job.stage, "step": step, "steps": STEPS})
        if hooks.should_stop():
            return StageResult(status="stopped", step=step)
        time.sleep(0.1)
    return StageResult(status="done", step=STEPS)


def says_its_devices(job: StageJob, *, hooks: Hooks) -> StageResult:
    """One note: the GPUs that this process may see."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
    hooks.event({"kind": "note", "stage": job.stage, "text": devices})
    return StageResult(status="done", step=1)


def refuses(job: StageJob, *, hooks: Hooks) -> StageResult:
    """Says that the user is wrong, on one rank; the other notes its start and waits for ever."""
    if int(os.environ["RANK"]) == 1:
        time.sleep(2.0)  # the other rank's note goes first
        raise UserError("data.train.uri=nowhere: no index there")
    hooks.event({"kind": "note", "stage": job.stage, "text": "started"})
    while not hooks.should_stop():
        time.sleep(0.1)
    return StageResult(status="stopped", step=0)


def stuck_once(job: StageJob, *, hooks: Hooks) -> StageResult:
    """Trains; the first time that rank 1 comes to its sixth step, it stays there."""
    from orchestrator.train.loop import Loop
    from orchestrator.train.worker import run

    mark = Path(job.run) / "was-stuck"
    micros = Loop._micros

    def until_stuck(self: Loop, batch: Any, *, step: int) -> Any:
        if self.ranks.rank == 1 and step == 5 and not mark.exists():
            mark.touch()
            waits_for_nobody()
        return micros(self, batch, step=step)

    Loop._micros = until_stuck
    return run(job, hooks=hooks)


def waits_for_nobody() -> None:
    """Does not return."""
    threading.Event().wait()

"""Workers that stand in for the trainer where only Ray's side is under test."""

import hashlib
import json
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.errors import UserError
from orchestrator.train.engine.base import Engine
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob, StageResult
from orchestrator.train.ranks import Ranks
from tests.numerics.tasks import state

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


def gated(job: StageJob, *, hooks: Hooks) -> StageResult:
    """The trainer, held at logged steps by a file; notes a hash of each saved and loaded state."""
    from orchestrator.train import saves
    from orchestrator.train.worker import run

    def tell(what: str, *, step: int, engines: Mapping[str, Engine], ranks: Ranks) -> None:
        found = {name: state(ranks, engine) for name, engine in sorted(engines.items())}
        if ranks.rank == 0:
            digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
            hooks.event({"kind": "state", "stage": job.stage, "text": f"{what} {step} {digest}"})

    class TellingSaver(saves.Saver):
        def begin(self, *, step: int, **options: Any) -> None:
            tell("saved", step=step, engines=self._engines, ranks=self._ranks)
            super().begin(step=step, **options)

    load = saves.load_latest

    def load_and_tell(*args: Any, **options: Any) -> Any:
        found = load(*args, **options)
        if found is not None:
            tell("loaded", step=found["step"], engines=options["engines"], ranks=options["ranks"])
        return found

    saves.Saver, saves.load_latest = TellingSaver, load_and_tell
    return run(job, hooks=Gated(hooks, gate=gate_of(job)))


def gate_of(job: StageJob) -> Path:
    """The file that holds the step which training may pass."""
    return Path(job.run).parent / "gate"


class Gated:
    """Hooks that wait after a step that the gate does not let pass, until something is asked.

    They say that there is an hour left: a restart always pays.
    """

    def __init__(self, hooks: Hooks, *, gate: Path) -> None:
        self._hooks = hooks
        self._gate = gate
        self.should_stop, self.should_pause = hooks.should_stop, hooks.should_pause
        self.paused = hooks.paused

    def event(self, event: dict[str, Any]) -> None:
        is_progress = event["kind"] == "progress"
        self._hooks.event(event | {"eta_s": 3600.0} if is_progress else event)
        while is_progress and int(self._gate.read_text()) <= event["step"]:
            if self.should_pause() or self.should_stop():
                return
            time.sleep(0.02)

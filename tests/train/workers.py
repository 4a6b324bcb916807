"""Hooks and jobs for a worker in the test's own process."""

import json
import shutil
from pathlib import Path
from typing import Any

from orchestrator.recipe.recipe import Recipe
from orchestrator.train.hooks import NeverPaused
from orchestrator.train.job import StageJob
from orchestrator.train.ranks import Ranks
from orchestrator.train.worker import run


class Recorded(NeverPaused):
    """Hooks that keep events and ask to stop after some steps."""

    def __init__(self, *, stop_after: int | None = None) -> None:
        self.events: list[dict[str, Any]] = []
        self._left = stop_after

    def event(self, event: dict[str, Any]) -> None:
        json.dumps(event)
        self.events.append(event)

    def should_stop(self) -> bool:
        if self._left is None:
            return False
        self._left -= 1
        return self._left <= 0

    def kinds(self) -> set[str]:
        return {event["kind"] for event in self.events}


class Paused(Recorded):
    """Hooks that ask for a pause after some steps and keep a copy of the run as it is then.

    Args:
        after: steps; the request stands for one step boundary more than the save needs.
        run: the run's folder.
        copy: where its copy goes.
    """

    def __init__(self, *, after: int, run: Path, copy: Path) -> None:
        super().__init__()
        self._after = after
        self._run = run
        self._copy = copy
        self._looks = 0
        self.saved: list[int] = []

    def should_pause(self) -> bool:
        self._looks += 1
        return self._looks >= self._after and not self.saved

    def paused(self, step: int) -> None:
        self.saved.append(step)
        shutil.copytree(self._run, self._copy)


def run_rank(
    ranks: Ranks, *, job: str, pause_after: int | None = None, copy: str = ""
) -> dict[str, Any]:
    """One rank of a job, for tests/numerics/gang.py; what it said and where it paused."""
    known = StageJob.model_validate_json(job)
    hooks = Recorded()
    if pause_after is not None:
        hooks = Paused(after=pause_after, run=Path(known.run), copy=Path(copy))
    result = run(known, hooks=hooks)
    notes = [event["text"] for event in hooks.events if event["kind"] == "note"]
    saved = hooks.saved if isinstance(hooks, Paused) else []
    return {"rank": ranks.rank, "status": result.status, "notes": notes, "saved": saved}


def job_of(recipe: Recipe, stage: str, *, run_uri: str) -> StageJob:
    return StageJob(recipe=recipe, stage=stage, run=run_uri, attempt=1)

"""Hooks and jobs for a worker in the test's own process."""

import json
from typing import Any

from orchestrator.recipe.recipe import Recipe
from orchestrator.train.hooks import NeverPaused
from orchestrator.train.job import StageJob


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


def job_of(recipe: Recipe, stage: str, *, run_uri: str) -> StageJob:
    return StageJob(recipe=recipe, stage=stage, run=run_uri, attempt=1)

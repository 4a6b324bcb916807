"""All stages of a run in one table that MLflow shows on the parent run, kept up to date."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.launch.terminal import Line, update
from orchestrator.recipe.recipe import Recipe

EVERY_S = 15.0  # at most this often while nothing starts or ends

_COLUMNS = ("stage", "kind", "state", "step", "loss", "speed", "time left", "why")


class Overview:
    """Takes every event of a run, from any thread, and hands on a table where it has changed.

    Args:
        recipe: whose stages they are.
        tell: takes ``overview`` events.
        clock: seconds.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        tell: Callable[[dict[str, Any]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kinds = {stage.id: stage.kind for stage in recipe.stages}
        self._lines = {stage.id: Line() for stage in recipe.stages}
        self._why: dict[str, str] = {}
        self._tell = tell
        self._clock = clock
        self._told_s = float("-inf")
        self._lock = threading.Lock()

    def event(self, event: Mapping[str, Any]) -> None:
        """Tells the table at once when a stage starts or ends, else now and then."""
        with self._lock:
            self._take(event)
            moved = event["kind"] in ("run", "stage", "end")
            ticked = event["kind"] == "progress" and self._clock() >= self._told_s + EVERY_S
            if moved or ticked:
                self._told_s = self._clock()
                self._tell({"kind": "overview", "stage": None, "text": self._table()})

    def _take(self, event: Mapping[str, Any]) -> None:
        stage = event.get("stage")
        if stage in self._lines:
            update(self._lines, event)
            if event["kind"] == "note" and event.get("failure"):
                self._why[stage] = event["text"]
        elif stage is None and event["kind"] == "end":
            for line in self._lines.values():
                line.state = "not started" if line.state == "waiting" else line.state

    def _table(self) -> str:
        rows = [_COLUMNS, tuple("---" for _ in _COLUMNS)]
        for stage, line in self._lines.items():
            cells = (stage, self._kinds[stage], *line.cells(), self._why.get(stage, ""))
            rows.append(tuple(_cell(one) for one in cells))
        return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

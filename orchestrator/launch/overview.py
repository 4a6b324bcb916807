"""All stages of a run in one table that MLflow shows on the parent run, kept up to date."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.launch.terminal import Line, update
from orchestrator.recipe.recipe import Recipe

EVERY_S = 15.0  # at most this often while nothing starts or ends

_COLUMNS = ("stage", "kind", "state", "step", "loss", "speed", "time left", "why")
_LOST = "its command died; the same command goes on"


class Overview:
    """Takes every event of a run, from any thread, and hands on a table where it has changed.

    With it goes the table that holds if nothing more is heard of this process (``if_lost``): who
    finds that out has no other way to make one.

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
                self._tell(
                    {
                        "kind": "overview",
                        "stage": None,
                        "text": _table(self._rows(self._lines, why=self._why)),
                        "if_lost": self._table_if_lost(),
                    }
                )

    def _take(self, event: Mapping[str, Any]) -> None:
        stage = event.get("stage")
        if stage in self._lines:
            update(self._lines, event)
            if event["kind"] == "note" and event.get("failure"):
                self._why[stage] = event["text"]
        elif stage is None and event["kind"] == "end":
            self._lines = {name: _unless_waiting(line) for name, line in self._lines.items()}

    def _table_if_lost(self) -> str:
        active = [one for one, line in self._lines.items() if line.state in ("starting", "running")]
        lines = {name: _unless_waiting(line) for name, line in self._lines.items()}
        lines |= {name: replace(lines[name], state="stopped") for name in active}
        return _table(self._rows(lines, why=self._why | dict.fromkeys(active, _LOST)))

    def _rows(self, lines: Mapping[str, Line], *, why: Mapping[str, str]) -> list[tuple[str, ...]]:
        return [
            (stage, self._kinds[stage], *line.cells(), why.get(stage, ""))
            for stage, line in lines.items()
        ]


def _unless_waiting(line: Line) -> Line:
    """What a line says once no stage starts any more."""
    return replace(line, state="not started") if line.state == "waiting" else line


def _table(rows: list[tuple[str, ...]]) -> str:
    head = [_COLUMNS, tuple("---" for _ in _COLUMNS)]
    body = [tuple(_cell(one) for one in row) for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [*head, *body])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")

"""The ledger of a run while it goes on: kept in the run's folder, charted, said at the end."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from orchestrator.cascade.goodput import KINDS, Goodput
from orchestrator.cascade.goodput_file import KEY, RowsKeeper
from orchestrator.cascade.goodput_rows import Row
from orchestrator.launch.charts import Charts
from orchestrator.launch.spending import in_one_line, in_total
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import Store

_CLOSE_S = 20.0


class Accounts:
    """Takes every event of a run, from any thread; waits for no store.

    Args:
        recipe: what is run.
        store: the run's folder.
        attempt: the number of this start.
        earlier: the rows of earlier starts.
        tell: takes ``metrics`` events.
        clock: unix seconds.
    """

    def __init__(
        self,
        recipe: Recipe,
        store: Store,
        *,
        attempt: int,
        earlier: Iterable[Row],
        tell: Callable[[dict[str, Any]], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._recipe = recipe
        self._tell = tell
        self._clock = clock
        self._lock = threading.Lock()
        self._earlier = list(earlier)
        self._goodput = Goodput(attempt=attempt, earlier=self._earlier)
        self._charts = Charts(recipe)
        self._charts.begin(None, now=clock())
        self._keeper = RowsKeeper(store, attempt=attempt, rows=self._rows)

    def event(self, event: Mapping[str, Any]) -> None:
        """Takes one event; hands on a point of the charts where one is due."""
        if event["kind"] not in KINDS:
            return
        stage, ends = event.get("stage"), event["kind"] == "end"
        with self._lock:
            now = self._clock()
            self._goodput.take(event, now=now)
            if event["kind"] == "stage":
                self._charts.begin(stage, now=now)
            for one in {stage, None}:
                if self._charts.is_due(one, now=now) or (ends and one == stage):
                    self._chart(one, now=now)
        # With a gang its rows begin: a driver that is killed soon after leaves them on record.
        if ends or event["kind"] == "gang":
            self._keeper.flush()
        else:
            self._keeper.touch()

    def close(self) -> list[str]:
        """Writes what is left, for a while; returns what is to be said."""
        behind = self._keeper.close(_CLOSE_S)
        rows = [*self._earlier, *self._rows()]
        total = in_total(rows, recipe=self._recipe)
        lines = [in_one_line(total, recipe=self._recipe)] if rows else []
        return lines if behind is None else [*lines, f"{KEY} is behind: {behind}"]

    def _rows(self) -> list[Row]:
        with self._lock:
            return self._goodput.rows(now=self._clock())

    def _chart(self, stage: str | None, *, now: float) -> None:
        rows = [*self._earlier, *self._goodput.rows(now=now)]
        if stage is not None:
            rows = [row for row in rows if row.stage == stage]
        if rows:
            self._tell(self._charts.point(stage, rows, now=now))

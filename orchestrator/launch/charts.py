"""Goodput as metrics: what MLflow draws of the ledger, in a bounded number of points."""

from collections.abc import Sequence
from typing import Any

from orchestrator.cascade.goodput_rows import Row
from orchestrator.launch.spending import Spending, in_total
from orchestrator.recipe.recipe import Recipe

_EVERY_S = 10.0
_EVERY_PART = 0.01  # of the time so far


class Charts:
    """Says when a point is due, and makes it.

    A point's step is the time since the first start of its stage, or of the run, in seconds: it
    goes on where the start before has ended, so no step is told twice. Points grow apart as time
    passes: 100 more each time that it has grown 2.7-fold.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._next: dict[str | None, float] = {}
        self._told: dict[str | None, int] = {}  # the last point's step

    def begin(self, stage: str | None, *, now: float) -> None:
        """A stage (None: the run) starts: its first point is due a moment later."""
        self._next[stage] = now + _EVERY_S

    def is_due(self, stage: str | None, *, now: float) -> bool:
        """Whether it is time for a point."""
        return stage in self._next and now >= self._next[stage]

    def point(self, stage: str | None, rows: Sequence[Row], *, now: float) -> dict[str, Any]:
        """The event of a point, from all rows of a stage or of the run; there must be some."""
        elapsed_s = max(now - min(row.start for row in rows), 0.0)
        self._next[stage] = now + max(_EVERY_S, _EVERY_PART * elapsed_s)
        # The last point of a start can come in the second of the one before.
        step = self._told[stage] = max(int(elapsed_s), self._told.get(stage, -1) + 1)
        return {
            "kind": "metrics",
            "stage": stage,
            "step": step,
            "time_ms": int(now * 1000),
            "values": _values(in_total(rows, recipe=self._recipe)),
        }


def _values(spending: Spending) -> dict[str, float]:
    """Percent of all time so far by category, of which those without time are left out."""
    spent = spending.spent
    values = {f"goodput/{name}": 100 * spent.share(name) for name in spent.seconds}
    values |= {"goodput/useful": 100 * spent.goodput, "goodput/rank_hours": spending.rank_hours}
    return values if spending.cost is None else values | {"goodput/cost": spending.cost}

"""What each rank of a gang spends a step on, from the ledger's rows of it."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.cascade.goodput_rows import (
    COMMUNICATION,
    COMPUTE,
    DATA_WAIT,
    REPEATED,
    SAVE_BLOCKED,
    Row,
)

SPAN_S = 60.0  # that times are a mean of, where the ledger was seen for so long
_NEW = (COMPUTE, COMMUNICATION, DATA_WAIT)
_KEPT = 64  # looks


def newest_gang(rows: Sequence[Row], *, stage: str) -> list[Row]:
    """The rows of a stage's newest gang by rank; none before each of its ranks trains."""
    own = [row for row in rows if row.stage == stage]
    last = max(((row.attempt, row.start) for row in own), default=None)
    gang = [row for row in own if (row.attempt, row.start) == last]
    if any(row.last_step is None for row in gang):
        return []
    return sorted(gang, key=lambda row: row.rank)


class RankTimes:
    """Takes the rows of a stage's newest gang, look by look.

    Times are means over the last ``SPAN_S`` or, at the first look, since the gang began. Its
    repeated steps count as well: they are taken to be spent as the new ones are.
    """

    def __init__(self) -> None:
        self._looks: deque[list[Row]] = deque(maxlen=_KEPT)

    def take(self, gang: list[Row]) -> list[dict[str, Any]]:
        """Per rank: node, step, and seconds per step; None before it has ended one."""
        if self._looks and _who(self._looks[-1]) != _who(gang):
            self._looks.clear()
        while len(self._looks) > 1 and _is_old(self._looks[1], gang):
            self._looks.popleft()
        before = {row.rank: row for row in self._looks[0]} if self._looks else {}
        found = [_times(row, before.get(row.rank)) for row in gang]
        self._looks.append(gang)
        return found


def _who(gang: Sequence[Row]) -> tuple[str | None, int]:
    return (gang[0].gang, len(gang)) if gang else (None, 0)


def _is_old(look: Sequence[Row], now: Sequence[Row]) -> bool:
    """Whether it reaches back far enough, and all ranks have done steps since."""
    return all(
        after.end - before.end >= SPAN_S and _step(after) > _step(before)
        for before, after in zip(look, now, strict=True)
    )


def _step(row: Row) -> int:
    return row.last_step or 0


def _times(row: Row, before: Row | None) -> dict[str, Any]:
    if before is not None and _step(row) > _step(before):
        steps = _step(row) - _step(before)
        seconds = {name: one - before.seconds.get(name, 0.0) for name, one in row.seconds.items()}
    else:
        steps, seconds = _step(row) - (row.first_step or 0), row.seconds
    return {
        "rank": row.rank,
        "node": row.node,
        "step": _step(row),
        "own_step_s": _per_step(COMPUTE, seconds, steps=steps),
        "communication_s": _per_step(COMMUNICATION, seconds, steps=steps),
        "data_wait_s": _per_step(DATA_WAIT, seconds, steps=steps),
        "save_blocked_s": row.seconds.get(SAVE_BLOCKED, 0.0),  # all of it, not per step
    }


def _per_step(category: str, seconds: Mapping[str, float], *, steps: int) -> float | None:
    new = sum(seconds.get(name, 0.0) for name in _NEW)
    if not new or steps <= 0:
        return None
    step_s = (new + seconds.get(REPEATED, 0.0)) / steps
    return step_s * seconds.get(category, 0.0) / new

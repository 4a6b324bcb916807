"""How long a gang that was lost took to train again, part by part."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

# The parts of a recovery, and the moment that ends each of them. The first begins with the last
# sign of the old gang, the last one ends with the first step that it had not reached.
PARTS = {
    "detect": "lost",
    "stop": "stopped",
    "reschedule": "placed",
    "start": "begun",
    "load": "loaded",
    "replay": "new step",
}


@dataclass
class _Stage:
    seen_s: float = 0.0  # when its last step was heard of
    step: int = 0  # the furthest one
    moments: dict[str, float] = field(default_factory=dict[str, float])  # empty: nothing is lost
    resumed: int = 0


class Recoveries:
    """Takes every event of a run, from any thread; notes each recovery once it is over.

    Times are those of the hosts that the moments happened on, steps are seen as they are logged.

    Args:
        tell: takes ``note`` events.
    """

    def __init__(self, *, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._stages: dict[str, _Stage] = {}
        self._lock = threading.Lock()

    def event(self, event: Mapping[str, Any]) -> None:
        """Takes ``gang``, ``moment`` and ``metrics`` events."""
        with self._lock:
            text = self._take(event)
        if text is not None:
            self._tell({"kind": "note", "stage": event["stage"], "text": text})

    def _take(self, event: Mapping[str, Any]) -> str | None:
        match event["kind"]:
            case "gang" | "moment":
                moment = _moment(event)
                if moment is not None:
                    self._note(self._stages.setdefault(event["stage"], _Stage()), event, moment)
            case "metrics" if "time_ms" in event:  # of a step; an evaluation has none
                return self._step(self._stages.setdefault(event["stage"], _Stage()), event)
            case _:
                pass
        return None

    def _note(self, stage: _Stage, event: Mapping[str, Any], moment: str) -> None:
        if moment == "lost" and not stage.moments:
            stage.moments = {"seen": stage.seen_s or event["time"], "lost": event["time"]}
        elif stage.moments and moment != "lost":  # lost once more on the way: the same recovery
            stage.moments[moment] = event["time"]
            stage.resumed = event.get("step", stage.resumed)
            stage.step = max(stage.step, stage.resumed)  # saved, and the loss kept it from the log

    def _step(self, stage: _Stage, event: Mapping[str, Any]) -> str | None:
        stage.seen_s = event["time_ms"] / 1000
        if event["step"] <= stage.step:
            return None
        before, stage.step = stage.step, event["step"]
        moments, stage.moments = stage.moments | {"new step": stage.seen_s}, {}
        if any(moment not in moments for moment in PARTS.values()):
            return None
        ends = [moments["seen"], *(moments[moment] for moment in PARTS.values())]
        seconds = [max(0.0, end - begin) for begin, end in pairwise(ends)]
        parts = ", ".join(f"{name} {one:.1f}" for name, one in zip(PARTS, seconds, strict=True))
        return (
            f"lost workers at step {before}, beyond it again after {ends[-1] - ends[0]:.1f} s: "
            f"{parts} s ({before - stage.resumed} steps repeated)"
        )


def _moment(event: Mapping[str, Any]) -> str | None:
    """The moment of a recovery that a gang, or a rank of it, tells of."""
    if event["kind"] == "moment":
        return event["moment"]
    match event["what"]:
        case "started":
            return "placed"
        case "gone":
            return "stopped"
        case _:
            return "lost" if event["failed"] else None

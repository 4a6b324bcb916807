"""What a command that was started again says of its way back, read from its notes."""

import json
import re
from pathlib import Path
from typing import Any

from orchestrator.tracking.spool import EVENTS, spool_folder
from tests.chaos.runs import Place

_RESUMED = re.compile(r"goes on from step (\d+), loaded in ([\d.]+) s")


def parts_of_last_start(place: Place, *, began_s: float) -> dict[str, float]:
    """Seconds from a command's start to its first step that no earlier start had reached.

    Empty if it has trained no such step.
    """
    before, last = _by_start(place)
    furthest = max((event["step"] for event in before if event["kind"] == "metrics"), default=0)
    resumed_s, load_s = 0.0, 0.0  # without a note the first step stands for it
    for event in last:
        match = _RESUMED.match(event.get("text", ""))
        if match:
            resumed_s, load_s = event["time_ms"] / 1000, float(match[2])
        if event["kind"] == "metrics":
            resumed_s = resumed_s or event["time_ms"] / 1000
        if event["kind"] == "metrics" and event["step"] > furthest:
            return {
                "start": resumed_s - began_s - load_s,
                "load": load_s,
                "replay": event["time_ms"] / 1000 - resumed_s,
            }
    return {}


def events_of(place: Place) -> list[dict[str, Any]]:
    """What the run's commands have told so far, all of them."""
    home = Path(place.env.get("XDG_CACHE_HOME", str(place.folder / "home")))
    path = spool_folder((home / "rushes" / "spool").resolve(), run_uri=place.uri) / EVENTS
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _by_start(place: Place) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The events of earlier starts, and of the last one."""
    events = events_of(place)
    last = max(at for at, event in enumerate(events) if event["kind"] == "attempt")
    return events[:last], events[last:]

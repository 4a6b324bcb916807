"""Events of a stage as ranks and the driver would tell them, on a clock of the test's."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.cascade.goodput import Goodput
from orchestrator.cascade.goodput_rows import Row

STAGE = "base"


def stage_start(
    time: float, *, stage: str = STAGE, kind: str = "train", workers: int = 2, inputs: str = "a"
) -> dict[str, Any]:
    return {
        "kind": "stage",
        "stage": stage,
        "params": {"compute": {"workers": workers}},
        "tags": {"kind": kind, "inputs": inputs},
        "time": time,
    }


def stage_end(time: float, *, stage: str = STAGE, status: str = "FINISHED") -> dict[str, Any]:
    return {"kind": "end", "stage": stage, "status": status, "time": time}


def gang(time: float, *, stage: str = STAGE, workers: int = 2) -> dict[str, Any]:
    return {"kind": "gang", "stage": stage, "what": "started", "workers": workers, "time": time}


def gang_end(time: float, *, stage: str = STAGE, failed: bool = True) -> dict[str, Any]:
    return {"kind": "gang", "stage": stage, "what": "ending", "failed": failed, "time": time}


@dataclass
class FakeRank:
    """A rank's process: it spends time, and tells what it has spent."""

    started: float
    token: str
    rank: int = 0
    ranks: int = 2
    stage: str = STAGE
    step: int = 0
    seconds: dict[str, float] = field(default_factory=dict[str, float])

    def spends(self, spans: Mapping[str, float], *, step: int) -> dict[str, Any]:
        """The beat after these spans, the last of which is its phase."""
        for name, seconds in spans.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.step = step
        return {
            "kind": "beat",
            "stage": self.stage,
            "gang": self.token,
            "rank": self.rank,
            "ranks": self.ranks,
            "node": f"node{self.rank}",
            "pid": 100 + self.rank,
            "time": self.started + sum(self.seconds.values()),
            "started": self.started,
            "step": step,
            "phase": list(spans)[-1],
            "phase_s": list(spans.values())[-1],
            "seconds": dict(self.seconds),
        }


def told(ledger: Goodput, *events: dict[str, Any]) -> Goodput:
    """A ledger that heard of each event when it happened."""
    for event in events:
        ledger.take(event, now=event["time"])
    return ledger


def ledger_of(
    *events: dict[str, Any], attempt: int = 1, earlier: list[Row] | None = None
) -> list[Row]:
    """The rows after events in order, at the time of the last one."""
    ledger = told(Goodput(attempt=attempt, earlier=earlier or ()), *events)
    return ledger.rows(now=events[-1]["time"])

"""What happened since the last logged step, and how a checkpoint keeps it."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from orchestrator.train.tasks.base import Work


@dataclass
class Window:
    """What happened since the last logged step, on this rank.

    The sums outlive a stop (``state``), so that a resumed run logs bitwise what a straight one
    does. Times, and the steps and the work that they are of, are this process's own.
    """

    started_s: float = field(default_factory=time.monotonic)
    steps: int = 0
    wait_s: float = 0.0
    units: int = 0
    flops: float = 0.0
    skipped: int = 0
    grad_norm: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    stats: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    counts: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, stats: Mapping[str, torch.Tensor]) -> None:
        """Sums detached scalars in float32; nothing is moved off the device."""
        for name, value in stats.items():
            self.stats[name] = self.stats.get(name, 0.0) + value.float()
            self.counts[name] = self.counts.get(name, 0) + 1

    def count(self, work: Work, *, clips: int) -> None:
        """Adds the work of a step over all ranks."""
        self.units += clips * work.units
        self.flops += clips * work.flops

    def state(self) -> dict[str, Any]:
        """The sums as JSON, exactly: floats are in hexadecimal, for JSON knows no NaN.

        Waits for the device.
        """
        names = list(self.stats)
        sums = torch.stack([self.stats[name] for name in names]).tolist() if names else []
        return {
            "stats": {name: value.hex() for name, value in zip(names, sums, strict=True)},
            "counts": dict(self.counts),
            "skipped": self.skipped,
        }


def restore_window(
    states: Sequence[Mapping[str, Any]], *, rank: int, world_size: int, device: torch.device
) -> Window:
    """The window that a rank goes on with.

    At the world size of the save a rank takes up its own sums. At another one every rank takes
    the mean over ranks, as if from its share of all forward passes: the logged mean weighs what
    came before and after alike, but is rounded in another order.

    Args:
        states: every rank's, by rank; none if the checkpoint says nothing of them.
        rank: this rank.
        world_size: ranks now.
        device: where the task's stats are.
    """
    if not states:
        return Window()
    state = states[rank] if len(states) == world_size else _shared(states, world_size=world_size)
    return Window(
        skipped=state["skipped"],
        stats={
            name: torch.tensor(float.fromhex(value), dtype=torch.float32, device=device)
            for name, value in state["stats"].items()
        },
        counts=dict(state["counts"]),
    )


def _shared(states: Sequence[Mapping[str, Any]], *, world_size: int) -> dict[str, Any]:
    stats: dict[str, str] = {}
    counts: dict[str, float] = {}
    for name in states[0]["stats"]:
        means = [float.fromhex(one["stats"][name]) / one["counts"][name] for one in states]
        counts[name] = sum(one["counts"][name] for one in states) / world_size
        stats[name] = (counts[name] * sum(means) / len(means)).hex()
    return {"stats": stats, "counts": counts, "skipped": states[0]["skipped"]}

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
    clips: int = 0
    units: int = 0
    flops: float = 0.0
    skipped: int = 0  # steps that were not applied
    spikes: int = 0  # those of them whose gradient was finite
    grad_norm: dict[str, float] = field(default_factory=dict[str, float])
    stats: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])
    weights: dict[str, torch.Tensor] = field(default_factory=dict[str, torch.Tensor])

    def add(
        self, stats: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        """Sums detached scalars and their weights in float32; nothing is moved off the device."""
        for name, value in stats.items():
            weight = (weights or {}).get(name, torch.ones_like(value)).float()
            self.stats[name] = self.stats.get(name, 0.0) + value.float()
            self.weights[name] = self.weights.get(name, 0.0) + weight

    def count(self, work: Work, *, clips: int) -> None:
        """Adds the work of a step over all ranks."""
        self.clips += clips
        self.units += clips * work.units
        self.flops += clips * work.flops

    def state(self) -> dict[str, Any]:
        """The sums as JSON, exactly: floats are in hexadecimal, for JSON knows no NaN.

        Waits for the device.
        """
        return {
            "stats": _exactly(self.stats),
            "weights": _exactly(self.weights),
            "skipped": self.skipped,
            "spikes": self.spikes,
        }


def _exactly(sums: Mapping[str, torch.Tensor]) -> dict[str, str]:
    values = torch.stack(list(sums.values())).tolist() if sums else []
    return {name: value.hex() for name, value in zip(sums, values, strict=True)}


def restore_window(
    states: Sequence[Mapping[str, Any]], *, rank: int, world_size: int, device: torch.device
) -> Window:
    """The window that a rank goes on with.

    At the world size of the save a rank takes up its own sums. At another one every rank takes
    an even part of all: the logged mean is over the same, but rounded in another order.

    Args:
        states: every rank's, by rank; none if the checkpoint says nothing of them.
        rank: this rank.
        world_size: ranks now.
        device: where the task's stats are.
    """
    if not states:
        return Window()
    state = states[rank] if len(states) == world_size else _shared(states, world_size=world_size)
    stats, weights = (
        {
            name: torch.tensor(float.fromhex(value), dtype=torch.float32, device=device)
            for name, value in state[kind].items()
        }
        for kind in ("stats", "weights")
    )
    return Window(
        skipped=state["skipped"],
        spikes=state["spikes"],
        stats=stats,
        weights=weights,
    )


def _shared(states: Sequence[Mapping[str, Any]], *, world_size: int) -> dict[str, Any]:
    """Everyone's even part of all sums."""

    def parts(kind: str) -> dict[str, str]:
        return {
            name: (sum(float.fromhex(one[kind][name]) for one in states) / world_size).hex()
            for name in states[0][kind]
        }

    return {
        "stats": parts("stats"),
        "weights": parts("weights"),
        "skipped": states[0]["skipped"],
        "spikes": states[0]["spikes"],
    }

"""health.jsonl: the steps of a stage that were not applied, and what came of them."""

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from orchestrator.storage.json_files import read_lines
from orchestrator.storage.store import Store
from orchestrator.train.exchange import gather_json
from orchestrator.train.health import Taken
from orchestrator.train.ranks import Ranks

Row = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """A step that not all of its networks took, as one rank saw it.

    Attributes:
        step: from 0.
        position: of its batch in the order of data.
        lr: learning rate.
        networks: how each took it, by name.
        losses: of every forward pass on this rank, by network; on their device.
        keys: of this rank's clips.
    """

    step: int
    position: int
    lr: float
    networks: Mapping[str, Taken]
    losses: Mapping[str, list[torch.Tensor]]
    keys: tuple[str, ...]

    @property
    def is_spike(self) -> bool:
        """Whether it was refused for the size of a gradient alone."""
        return any(one.is_spike for one in self.networks.values())


def row_of(refusal: Refusal, *, ranks: Ranks) -> Row:
    """What all ranks know of a refused step; collective, waits for the device."""
    mine = {
        "losses": {
            name: number(torch.stack(losses).float().mean().item())
            for name, losses in refusal.losses.items()
        },
        "keys": refusal.keys,
    }
    everyone = ranks.of_readers(gather_json(mine, device=ranks.device))
    losses = [one["losses"] for one in everyone]
    is_finite = all(isinstance(loss, float) for one in losses for loss in one.values())
    reason = "spike" if refusal.is_spike else "gradient" if is_finite else "loss"
    return {
        "kind": "skipped",
        "step": refusal.step + 1,
        "position": refusal.position,
        "reason": reason,
        "lr": refusal.lr,
        "networks": {
            name: {
                "norm": number(one.norm),
                "limit": number(one.limit) if one.limit >= 0.0 else None,
                "applied": one.applied,
            }
            for name, one in refusal.networks.items()
        },
        "losses": losses,
        "keys": [one["keys"] for one in everyone],
    }


def told_of(row: Row) -> str:
    """A line about a refused step, for the user."""
    if row["reason"] == "spike":
        what = "; ".join(
            f"gradient norm of {name} {one['norm']:.3g}, above the limit {one['limit']:.3g}"
            for name, one in row["networks"].items()
            if not one["applied"] and one["limit"] is not None
        )
    else:
        what = f"a {row['reason']} was not finite"
    return f"step {row['step']} was not applied: {what}"


def number(value: float) -> float | str:
    """What JSON has no number for, as text."""
    return value if math.isfinite(value) else str(value)


class Evidence:
    """The file's rows, kept by rank 0; a row that is found again by a repeated step stays one.

    Args:
        store: where the run is.
        key: of the file.
    """

    def __init__(self, store: Store, *, key: str) -> None:
        self._store = store
        self._key = key
        self._rows: dict[tuple[Any, ...], Row] = {}

    @property
    def uri(self) -> str:
        """Where a reader finds it."""
        return f"{self._store.uri}/{self._key}"

    def resume(self) -> None:
        """Reads what earlier starts have left."""
        if self._store.exists(self._key):
            for row in read_lines(self._store.get(self._key))[0]:
                self._keep(row)

    def add(self, row: Row, *, rewinds: int) -> None:
        """Adds a row, found after so many rewinds."""
        self._keep({**row, "rewinds": rewinds, "time_ms": int(time.time() * 1000)})

    def _keep(self, row: Row) -> None:
        self._rows[row["kind"], row["rewinds"], row["step"]] = row

    def copy(self) -> dict[str, bytes]:
        """The file as it is now, by its key in the run's folder; nothing without a row."""
        lines = [json.dumps(row) + "\n" for row in self._rows.values()]
        return {self._key: "".join(lines).encode()} if lines else {}

    def put(self) -> None:
        """Writes the file at once."""
        for key, raw in self.copy().items():
            self._store.put(key, raw)

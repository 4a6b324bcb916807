"""`rushes plan --compare`: what a run has measured beside what its plan says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from statistics import median
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from orchestrator.cascade.goodput_file import read_rows
from orchestrator.cascade.goodput_rows import Row, spent
from orchestrator.launch.plan_tables import short, size, span
from orchestrator.plan.plan import RunPlan, StagePlan
from orchestrator.storage.json_files import read_json, read_lines
from orchestrator.storage.store import Store

MISSING = "missing"
_MIB = 2**20


@dataclass(frozen=True)
class Pair:
    """One quantity of one stage; None: not known.

    Attributes:
        name: with its unit, as ``--json`` has it.
        planned: by the plan.
        measured: in the run's folder.
    """

    name: str
    planned: float | None
    measured: float | None


def measured_beside(plan: RunPlan, store: Store) -> dict[str, list[Pair]]:
    """By stage that trains: every quantity, known or not."""
    rows, _ = read_rows(store)
    return {
        stage.stage: _pairs(stage, store, [row for row in rows if row.stage == stage.stage])
        for stage in plan.stages
        if stage.layouts is not None
    }


def as_tree(pairs: Mapping[str, list[Pair]]) -> dict[str, Any]:
    """For machines; null is what is missing."""
    return {
        stage: {one.name: {"planned": one.planned, "measured": one.measured} for one in found}
        for stage, found in pairs.items()
    }


def print_pairs(pairs: Mapping[str, list[Pair]], *, gpu: str, console: Console) -> None:
    """A row per quantity and stage, with their ratio."""
    table = Table(title=f"planned on {gpu}, measured in the run", box=box.SIMPLE_HEAD)
    for name in ("stage", "quantity"):
        table.add_column(name, overflow="fold")
    for name in ("planned", "measured", "measured / planned"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage, found in pairs.items():
        for one in found:
            show = _SHOWN[one.name]
            table.add_row(
                stage,
                one.name,
                MISSING if one.planned is None else show(one.planned),
                MISSING if one.measured is None else show(one.measured),
                _ratio(one),
            )
    console.print(table)


def _pairs(stage: StagePlan, store: Store, rows: list[Row]) -> list[Pair]:
    layouts, failures = stage.layouts, stage.failures
    assert layouts is not None
    metrics = _metrics(store, stage.stage)
    checkpoint = _newest(store, stage.stage)
    folder = f"stages/{stage.stage}"
    kept = (f"{folder}/checkpoints/", f"{folder}/weights/")
    stored = sum(entry.size for prefix in kept for entry in store.entries(prefix))
    goodput = spent(rows).goodput if rows else None
    held_s = max(row.end for row in rows) - min(row.start for row in rows) if rows else None
    expected = None if failures is None else failures.expected
    return [
        Pair("parameters", stage.parameters, _parameters(store, checkpoint)),
        Pair("step_s", layouts.chosen.step.total, _median(metrics, "step_s")),
        Pair("memory_bytes", layouts.chosen.memory.total, _memory(metrics)),
        # No metric says how many bytes were read: steps x batch alone would be the plan again.
        Pair("read_bytes", stage.read_bytes, None),
        Pair("checkpoint_bytes", stage.checkpoint_bytes, _bytes(store, checkpoint)),
        Pair("stored_bytes", stage.stored_bytes, stored or None),
        Pair("seconds", expected.seconds if expected and expected.ends else None, held_s),
        Pair("goodput", None if expected is None else expected.goodput, goodput),
    ]


def _metrics(store: Store, stage: str) -> list[dict[str, Any]]:
    key = f"stages/{stage}/metrics.jsonl"
    return read_lines(store.get(key))[0] if store.exists(key) else []


def _median(rows: list[dict[str, Any]], name: str) -> float | None:
    """Of all logged steps: the first ones and those beside a save are slower."""
    found = [row[name] for row in rows if name in row]
    return median(found) if found else None


def _memory(rows: list[dict[str, Any]]) -> float | None:
    """The most that a GPU's allocator held; a CPU's process is no measure of it."""
    found = [row["gpu_memory_mib"] for row in rows if "gpu_memory_mib" in row]
    return max(found) * _MIB if found else None


def _newest(store: Store, stage: str) -> str | None:
    """The folder of the newest checkpoint that is committed."""
    keys = store.list(f"stages/{stage}/checkpoints/")
    commits = sorted(key for key in keys if key.endswith("/COMMIT"))
    return commits[-1].removesuffix("COMMIT") if commits else None


def _parameters(store: Store, checkpoint: str | None) -> float | None:
    if checkpoint is None:
        return None
    found = read_json(store, f"{checkpoint}index.json")["parameters"]
    return sum(prod(one["shape"]) for one in found.values())


def _bytes(store: Store, checkpoint: str | None) -> float | None:
    return None if checkpoint is None else sum(one.size for one in store.entries(checkpoint))


def _ratio(pair: Pair) -> str:
    if not pair.planned or pair.measured is None:
        return "-"
    return f"{pair.measured / pair.planned:.3g}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


_SHOWN: dict[str, Callable[[float], str]] = {
    "parameters": short,
    "step_s": span,
    "memory_bytes": size,
    "read_bytes": size,
    "checkpoint_bytes": size,
    "stored_bytes": size,
    "seconds": span,
    "goodput": _percent,
}

"""`rushes plan`: what a recipe takes on so many GPUs, before it takes any."""

import json
from dataclasses import asdict, dataclass, replace
from math import isinf
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.errors import UserError
from orchestrator.launch.gantt import draw, write_png
from orchestrator.launch.plan_failures import failure_notes, failures_table
from orchestrator.launch.plan_tables import (
    layout_table,
    memory_table,
    notes,
    other_layouts,
    stage_table,
)
from orchestrator.plan.choose import Option
from orchestrator.plan.expect import Assumed
from orchestrator.plan.failures import load_failures
from orchestrator.plan.gpus import DEFAULT, find_gpu, load_gpus
from orchestrator.plan.plan import RunPlan, StagePlan, make_plan
from orchestrator.plan.timing import Cluster
from orchestrator.recipe.recipe import Recipe

GPUS_PER_NODE = 8
PICTURE, NUMBERS = "plan.png", "plan.json"
_NARROWEST = 100  # columns of a file or a pipe


@dataclass(frozen=True)
class Asked:
    """What the command line says of the machines; None where it says nothing.

    Attributes:
        nodes: of equal GPUs.
        gpus_per_node: in each.
        gpu: name in the table.
        table: a file whose rows are added to the table.
        failures: a file whose numbers replace those of ``failures.yaml``.
        mttf_h: hours of a node between failures.
        elastic: whether gangs go on with fewer nodes; None: as the recipe says.
        seed: of the simulation.
    """

    nodes: int | None = None
    gpus_per_node: int | None = None
    gpu: str = DEFAULT
    table: Path | None = None
    failures: Path | None = None
    mttf_h: float | None = None
    elastic: bool | None = None
    seed: int = 0

    @property
    def gpus(self) -> int | None:
        """In all; None: as many as the recipe gives every stage."""
        if self.nodes is None and self.gpus_per_node is None:
            return None
        return (self.nodes or 1) * (self.gpus_per_node or GPUS_PER_NODE)


def plan_recipe(recipe: Recipe, *, asked: Asked) -> RunPlan:
    """Counts every network and lays all stages out.

    Raises:
        UserError: if a stage does not fit, a GPU is not in the table, or the size of a pretrained
            encoder is not known.
    """
    table = load_gpus(asked.table)
    name, gpu = find_gpu(asked.gpu, table=table)
    assumed = Assumed(
        failures=load_failures(asked.failures, mttf_h=asked.mttf_h),
        elastic=asked.elastic,
        seed=asked.seed,
    )
    # Late: it imports torch, and what is wrong with the options should be said at once.
    from orchestrator.train.measure import measure

    try:
        facts = measure(recipe)
    except ValueError as error:
        raise UserError(f"recipe {recipe.name}: {error}") from None
    cluster = Cluster(name=name, gpu=gpu, gpus_per_node=asked.gpus_per_node or GPUS_PER_NODE)
    return make_plan(recipe, facts, cluster=cluster, gpus=asked.gpus, table=table, assumed=assumed)


def wide_enough(console: Console) -> Console:
    """The same, and in a file or a pipe not too narrow for the tables."""
    if not console.is_terminal:
        console.width = max(console.width, _NARROWEST)
    return console


def print_plan(plan: RunPlan, *, console: Console) -> None:
    """Tables of stages, memory and layouts, and when what runs."""
    console.print(stage_table(plan))
    console.print(memory_table(plan))
    console.print(layout_table(plan))
    console.print(failures_table(plan))
    lines = (*failure_notes(plan), "", *other_layouts(plan), "", *draw(plan), "", *notes(plan))
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def write_plan(plan: RunPlan, tree: dict[str, Any], *, folder: Path) -> list[Path]:
    """The picture and the numbers, in a folder that is made if it is not there.

    Raises:
        UserError: if it cannot be written.
    """
    paths = [folder / PICTURE, folder / NUMBERS]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_png(plan, paths[0])
        paths[1].write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {folder}: {error.strerror or error}") from None
    return paths


def numbers(plan: RunPlan) -> dict[str, Any]:
    """All of a plan: bytes, seconds, FLOPs, money."""
    return {
        "recipe": plan.recipe,
        "gpu": plan.gpu,
        "gpus": plan.gpus,
        "gpus_per_node": plan.gpus_per_node,
        "seconds": plan.seconds,
        "cost": plan.cost,
        "likely_seconds": _finite(plan.likely_seconds),
        "likely_cost": _finite(plan.likely_cost),
        "currency": plan.currency,
        "stages": [_stage(stage) for stage in plan.stages],
    }


def _stage(stage: StagePlan) -> dict[str, Any]:
    layouts = stage.layouts
    found = asdict(replace(stage, layouts=None))  # the layouts are shown by hand below
    found["likely_cost"] = _finite(stage.likely_cost)
    if stage.failures is not None:
        expected = found["failures"]["expected"]
        expected["seconds"] = _finite(stage.failures.expected.seconds)
    if layouts is None:
        return found
    found["layouts"] = {
        "chosen": _option(layouts.chosen),
        "own": None if layouts.own is None else _option(layouts.own),
        "best": _option(layouts.best),
        "lost": [_option(one.option) | {"why": one.why} for one in layouts.lost],
    }
    return found


def _finite(value: float | None) -> float | None:
    """JSON knows no infinity: what never ends has no number."""
    return None if value is None or isinf(value) else value


def _option(option: Option) -> dict[str, Any]:
    return {
        **asdict(option.layout),
        "fits": option.fits,
        "memory": {**asdict(option.memory), "total": option.memory.total},
        "needed": option.memory.needed(),
        "step": {**asdict(option.step), "total": option.step.total},
    }

"""`rushes status`: where a run stands, from its storage alone."""

from typing import Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from orchestrator.launch.look import Look
from orchestrator.launch.spending import from_json, left_out
from orchestrator.launch.spending_table import spending_table

_MOST_RANKS = 8  # of a gang that are shown: the slowest ones


def read_status(uri: str) -> dict[str, Any]:
    """Stages with state, last logged step, last commit, loss, ranks; attempts; goodput."""
    return Look(uri).read()


def print_status(status: dict[str, Any], *, console: Console) -> None:
    """What ``status_parts`` are."""
    for part in status_parts(status):
        console.print(part)


def status_parts(status: dict[str, Any]) -> list[RenderableType]:
    """A table of the stages, one for each gang, one of what all time was spent on."""
    parts: list[RenderableType] = [_stage_table(status)]
    parts += [_rank_table(stage) for stage in status["stages"] if stage["ranks"]]
    if status["goodput"] is not None:
        parts.append(_goodput_table(status["goodput"]))
    if status["damaged_lines"]:
        parts.append(left_out(status["damaged_lines"]))
    return parts


def step_of(stage: dict[str, Any]) -> int:
    """The step that all ranks of a stage have done, which may be logged later."""
    return max(stage["step"] or 0, min((one["step"] for one in stage["ranks"]), default=0))


def _stage_table(status: dict[str, Any]) -> Table:
    table = Table(title=f"{status['name']} at {status['run']}, {status['attempts']} start(s)")
    for name in ("stage", "kind", "state", "step", "last checkpoint", "loss"):
        table.add_column(name)
    for stage in status["stages"]:
        loss = stage["loss"]
        step = "" if stage["steps"] is None else f"{step_of(stage)}/{stage['steps']}"
        checkpoint = "" if stage["checkpoint"] is None else str(stage["checkpoint"])
        table.add_row(
            stage["id"],
            stage["kind"],
            stage["state"],
            step,
            checkpoint,
            "" if loss is None else f"{loss:.4g}",
        )
    return table


def _rank_table(stage: dict[str, Any]) -> Table:
    """The ranks of a stage's newest gang, the one that the others wait for first."""
    ranks = sorted(stage["ranks"], key=lambda one: -(one["own_step_s"] or 0.0))
    left = len(ranks) - _MOST_RANKS
    table = Table(
        title=f"ranks of {stage['id']}: seconds per step, the slowest first",
        caption=f"and {left} more that are faster" if left > 0 else None,
        box=box.SIMPLE_HEAD,
    )
    table.add_column("rank")
    table.add_column("node", overflow="fold")
    for head in ("step", "own work", "communication", "data wait", "saves, all"):
        table.add_column(head, justify="right", no_wrap=True)
    for one in ranks[:_MOST_RANKS]:
        names = ("own_step_s", "communication_s", "data_wait_s", "save_blocked_s")
        seconds = [_seconds(one[name]) for name in names]
        table.add_row(str(one["rank"]), one["node"] or "", str(one["step"]), *seconds)
    return table


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def _goodput_table(goodput: dict[str, Any]) -> Table:
    return spending_table(
        [from_json(tree, name=name) for name, tree in goodput["stages"].items()],
        total=from_json(goodput["total"], name="total"),
        currency=goodput["currency"],
    )

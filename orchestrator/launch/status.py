"""`rushes status`: where a run stands, from its storage alone."""

from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator.cascade.goodput_file import read_rows
from orchestrator.cascade.goodput_rows import Row
from orchestrator.cascade.versions import BEGUN
from orchestrator.launch.run_folder import open_run
from orchestrator.launch.spending import by_stage, from_json, in_total, left_out
from orchestrator.launch.spending_table import spending_table
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.storage.json_files import read_lines
from orchestrator.storage.store import Store


def read_status(uri: str) -> dict[str, Any]:
    """Stages with their state, last logged step, last commit and loss; attempts; goodput."""
    store, recipe = open_run(uri)
    rows, damaged = read_rows(store)
    attempts = sorted(name for name in store.list("attempts/") if name.endswith(".json"))
    return {
        "run": store.uri,
        "name": recipe.name,
        "attempts": len(attempts),
        "stages": [_stage(store, stage) for stage in recipe.stages],
        "goodput": _goodput(rows, recipe=recipe) if rows else None,
        "damaged_lines": damaged,
    }


def print_status(status: dict[str, Any], *, console: Console) -> None:
    """A table of the stages, and one of what their ranks' time was spent on."""
    table = Table(title=f"{status['name']} at {status['run']}, {status['attempts']} start(s)")
    for name in ("stage", "kind", "state", "step", "last checkpoint", "loss"):
        table.add_column(name)
    for stage in status["stages"]:
        loss = stage["loss"]
        step = "" if stage["steps"] is None else f"{stage['step'] or 0}/{stage['steps']}"
        checkpoint = "" if stage["checkpoint"] is None else str(stage["checkpoint"])
        table.add_row(
            stage["id"],
            stage["kind"],
            stage["state"],
            step,
            checkpoint,
            "" if loss is None else f"{loss:.4g}",
        )
    console.print(table)
    if status["goodput"] is not None:
        console.print(_goodput_table(status["goodput"]))
    if status["damaged_lines"]:
        console.print(left_out(status["damaged_lines"]))


def _goodput(rows: list[Row], *, recipe: Recipe) -> dict[str, Any]:
    return {
        "currency": recipe.price.currency if recipe.price is not None else None,
        "stages": {one.name: one.as_json() for one in by_stage(rows, recipe=recipe)},
        "total": in_total(rows, recipe=recipe).as_json(),
    }


def _goodput_table(goodput: dict[str, Any]) -> Table:
    return spending_table(
        [from_json(tree, name=name) for name, tree in goodput["stages"].items()],
        total=from_json(goodput["total"], name="total"),
        currency=goodput["currency"],
    )


def _stage(store: Store, stage: Stage) -> dict[str, Any]:
    folder = f"stages/{stage.id}"
    commits = sorted(
        name.split("/")[-2]
        for name in store.list(f"{folder}/checkpoints/")
        if name.endswith("/COMMIT")
    )
    last = _last_metrics(store, f"{folder}/metrics.jsonl")
    done = store.exists(f"{folder}/DONE")
    # A rank without a driver (torchrun) leaves no BEGUN; encoding leaves nothing else.
    started = bool(commits) or last is not None or store.exists(f"{folder}/{BEGUN}")
    return {
        "id": stage.id,
        "kind": stage.kind,
        "state": "done" if done else "started" if started else "waiting",
        "step": None if last is None else last["step"],
        "steps": stage.train.steps if stage.train else None,
        "checkpoint": int(commits[-1].removeprefix("step-")) if commits else None,
        "loss": None if last is None else last.get("loss"),
    }


def _last_metrics(store: Store, key: str) -> dict[str, Any] | None:
    if not store.exists(key):
        return None
    rows, _ = read_lines(store.get(key))
    return rows[-1] if rows else None

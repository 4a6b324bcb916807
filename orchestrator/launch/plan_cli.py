"""The command `rushes plan`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.launch.options import JsonOption, RecipeArgument, SetOption


def plan(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    nodes: Annotated[
        int | None,
        typer.Option("--nodes", metavar="N", min=1, help="lay every stage out over N nodes"),
    ] = None,
    gpus_per_node: Annotated[
        int | None, typer.Option("--gpus-per-node", metavar="G", min=1, help="default: 8")
    ] = None,
    gpu: Annotated[
        str, typer.Option("--gpu", metavar="NAME", help="a row of the table of GPUs")
    ] = "H100",
    table: Annotated[
        Path | None,
        typer.Option("--gpus", metavar="FILE", help="rows of your own; see docs/plan.md"),
    ] = None,
    as_json: JsonOption = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="also write the chart and the numbers there"),
    ] = None,
) -> None:
    """Say what a recipe takes before it is run: memory, layout, time, cost of every stage."""
    from rich.console import Console

    from orchestrator.launch.check import uncollected
    from orchestrator.launch.plan import Asked, numbers, plan_recipe, print_plan, write_plan
    from orchestrator.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides=overrides or ())
    with uncollected():
        found = plan_recipe(
            loaded,
            asked=Asked(nodes=nodes, gpus_per_node=gpus_per_node, gpu=gpu, table=table),
        )
    if as_json:
        typer.echo(json.dumps(numbers(found)))
    else:
        print_plan(found, console=Console())
    if out is not None:
        for path in write_plan(found, folder=out):
            typer.echo(str(path), err=as_json)

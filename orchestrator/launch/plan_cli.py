"""The command `rushes plan`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.errors import UserError
from orchestrator.launch.options import JsonOption, SetOption


def plan(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="a YAML file; none with --compare")
    ] = None,
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
    mttf: Annotated[
        float | None,
        typer.Option("--mttf", metavar="HOURS", help="of a node between failures; default: 1000"),
    ] = None,
    failures: Annotated[
        Path | None,
        typer.Option("--failures", metavar="FILE", help="how nodes fail; see docs/plan.md"),
    ] = None,
    elastic: Annotated[
        bool | None,
        typer.Option(
            "--elastic/--rigid", help="go on with fewer nodes, or wait; default: the recipe's way"
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="of the simulated failures")
    ] = 0,
    compare: Annotated[
        str | None,
        typer.Option("--compare", metavar="RUN", help="plan that run, and what it has measured"),
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
    from orchestrator.launch.plan import (
        Asked,
        numbers,
        plan_recipe,
        print_plan,
        wide_enough,
        write_plan,
    )
    from orchestrator.launch.plan_compare import as_tree, measured_beside, print_pairs
    from orchestrator.launch.run_folder import open_run
    from orchestrator.recipe.load import load_recipe

    if (recipe is None) == (compare is None):
        raise UserError("RECIPE and --compare: wanted one of them; a run has its own recipe")
    if compare is not None and overrides:
        raise UserError("--set: a run has its own recipe, wanted none with --compare")
    asked = Asked(
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        gpu=gpu,
        table=table,
        failures=failures,
        mttf_h=mttf,
        elastic=elastic,
        seed=seed,
    )
    console = wide_enough(Console())
    with uncollected():
        pairs = None
        if compare is not None:
            store, loaded = open_run(compare)
            found = plan_recipe(loaded, asked=asked)
            pairs = measured_beside(found, store)
        else:
            assert recipe is not None
            found = plan_recipe(load_recipe(recipe, overrides=overrides or ()), asked=asked)
        tree = numbers(found) | ({} if pairs is None else {"compared": as_tree(pairs)})
        if as_json:
            typer.echo(json.dumps(tree))
        else:
            print_plan(found, console=console)
            if pairs is not None:
                print_pairs(pairs, gpu=found.gpu, console=console)
        if out is not None:
            for path in write_plan(found, tree, folder=out):
                typer.echo(str(path), err=as_json)

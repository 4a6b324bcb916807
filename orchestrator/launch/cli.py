"""The command line. Commands import what they need: `rushes check` must answer at once."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    name="rushes",
    help="Trains video generators on a cluster: one recipe, one loop, one command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="a YAML file")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="change the recipe, e.g. stages.dit.train.steps=10"
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option("--run", metavar="URI", help="the run's folder; default: RUNS/NAME of the recipe"),
]


@app.command()
def check(recipe: RecipeArgument, overrides: SetOption = None) -> None:
    """Validate a recipe and print its stages."""
    from rich.console import Console

    from orchestrator.launch.check import print_check
    from orchestrator.recipe.load import load_recipe

    print_check(load_recipe(recipe, overrides=overrides or ()), console=Console())


@app.command()
def train(
    recipe: RecipeArgument,
    run: RunOption = None,
    overrides: SetOption = None,
    local: Annotated[
        bool, typer.Option("--local", help="no Ray: one plain process per rank")
    ] = False,
) -> None:
    """Run a recipe; if the run exists, go on with it."""
    from rich.console import Console

    from orchestrator.launch.train import train as run_recipe
    from orchestrator.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides=overrides or ())
    run_recipe(loaded, run=run, local=local, console=Console())


@app.command()
def submit(
    recipe: RecipeArgument,
    address: Annotated[
        str, typer.Option("--address", metavar="URL", help="the cluster's dashboard, http://...")
    ],
    run: RunOption = None,
    overrides: SetOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="show its log and end with its exit code")
    ] = False,
) -> None:
    """Run a recipe as a Ray job."""
    from rich.console import Console

    from orchestrator.launch.submit import submit as submit_recipe
    from orchestrator.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides=overrides or ())
    submit_recipe(
        loaded,
        file=recipe,
        overrides=overrides or [],
        run=run,
        address=address,
        follow=follow,
        console=Console(),
    )

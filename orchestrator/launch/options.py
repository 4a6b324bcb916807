"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="the run's folder or URI")]
JsonOption = Annotated[bool, typer.Option("--json", help="for machines")]

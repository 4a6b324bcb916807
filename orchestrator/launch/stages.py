"""`rushes check --stages`: every network of a recipe in numbers, from the meta device."""

from rich.console import Console
from rich.table import Table

from orchestrator.errors import UserError
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.describe import StageFacts, describe

_UNITS = ("", "k", "M", "G", "T", "P")


def print_stages(recipe: Recipe, *, console: Console) -> None:
    """A table of the training stages.

    Raises:
        UserError: if the width of a pretrained encoder is not known.
    """
    try:
        rows = describe(recipe)
    except ValueError as error:
        raise UserError(f"recipe {recipe.name}: {error}") from None
    table = Table(title=recipe.name)
    for name in ("stage", "network", "from", "to (TxHxW @ fps)"):
        table.add_column(name, no_wrap=True)
    for name in ("units", "weights", "FLOP"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)
    console.print(
        "units: pixels, latent positions or tokens of one training clip; FLOP: its forward and "
        "backward pass",
        markup=False,
        highlight=False,
    )


def _cells(row: StageFacts) -> tuple[str, ...]:
    return (
        row.stage,
        row.network,
        row.takes,
        row.makes,
        short(row.units),
        short(row.parameters),
        short(row.flops),
    )


def short(value: float) -> str:
    """Three digits and the thousands as a letter."""
    thousands = 0
    while value >= 999.5 and thousands < len(_UNITS) - 1:
        value /= 1000
        thousands += 1
    return f"{value:.3g}{_UNITS[thousands]}"

"""`rushes check --stages`: every network of a recipe in numbers, from the meta device."""

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from orchestrator.errors import UserError
from orchestrator.launch.plan_tables import NOTHING, short
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.describe import StageFacts, describe

_ANY_WIDTH = 10_000  # columns


def print_stages(recipe: Recipe, *, console: Console) -> None:
    """A table of the stages.

    In a narrow terminal its words are folded; elsewhere it is as wide as it has to be.

    Raises:
        UserError: if the width of a pretrained encoder is not known.
    """
    try:
        rows = describe(recipe)
    except ValueError as error:
        raise UserError(f"recipe {recipe.name}: {error}") from None
    table = _table(recipe.name, rows)
    if not console.is_terminal:
        console.width = max(console.width, _width_of(table, console=console))
    console.print(table)
    console.print(
        "units: pixels, latent positions or tokens of one training clip; training: FLOP for that "
        "clip, forward, backward and a teacher's answers; one pass: FLOP of one forward pass over "
        "all that is made, of which a step of sampling takes one, or two if guided",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _table(title: str, rows: list[StageFacts]) -> Table:
    table = Table(title=title)
    for name in ("stage", "network", "from", "to (TxHxW @ fps)", "trained on"):
        table.add_column(name, overflow="fold")
    for name in ("units", "weights", "training", "one pass"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def _width_of(table: Table, *, console: Console) -> int:
    """Columns of the terminal that it needs to show every cell in one line."""
    options = console.options.update(max_width=_ANY_WIDTH)
    return Measurement.get(console, options, table).maximum


def _cells(row: StageFacts) -> tuple[str, ...]:
    return (
        row.stage,
        row.network,
        row.takes,
        row.makes,
        row.trains_on or NOTHING,
        *map(short, (row.units, row.parameters, row.training, row.once)),
    )

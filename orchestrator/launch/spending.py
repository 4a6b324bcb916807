"""What the time of a run's ranks was spent on and what it cost, summed up for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.cascade.goodput_file import KEY
from orchestrator.cascade.goodput_rows import LOST, Row, Spent, spent
from orchestrator.recipe.recipe import Recipe

_HOUR_S = 3600.0
_NAMED = 3  # losses in one line


@dataclass(frozen=True)
class Spending:
    """Of one stage or of a whole run.

    Attributes:
        name: the stage's id, or what all are called.
        spent: rank-seconds by category.
        cost: by the recipe's price; None without one.
    """

    name: str
    spent: Spent
    cost: float | None

    @property
    def rank_hours(self) -> float:
        """Wall hours times ranks."""
        return self.spent.total / _HOUR_S

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "rank_seconds": self.spent.total,
            "goodput": self.spent.goodput,
            "seconds": dict(self.spent.seconds),
            "cost": self.cost,
        }


def by_stage(rows: Sequence[Row], *, recipe: Recipe) -> list[Spending]:
    """Of every stage that has rows, in the recipe's order; then those that it no longer has."""
    seen = {row.stage for row in rows}
    stages = [stage.id for stage in recipe.stages]
    names = [*(one for one in stages if one in seen), *sorted(seen - set(stages))]
    return [
        _spending(name, [row for row in rows if row.stage == name], recipe=recipe) for name in names
    ]


def in_total(rows: Sequence[Row], *, recipe: Recipe) -> Spending:
    """Of the whole run."""
    return _spending("total", rows, recipe=recipe)


def from_json(tree: dict[str, Any], *, name: str) -> Spending:
    """What ``as_json`` gave."""
    return Spending(name=name, spent=Spent(tree["seconds"]), cost=tree["cost"])


def in_one_line(total: Spending, *, recipe: Recipe) -> str:
    """Goodput, its largest losses, and the cost."""
    losses = sorted(LOST, key=total.spent.share, reverse=True)[:_NAMED]
    named = [f"{shown(one)} {percent(total.spent.share(one))} %" for one in losses]
    rest = ", ".join(one for one in named if not one.endswith(" 0.0 %"))
    text = f"goodput: {percent(total.spent.goodput)} % of {hours(total.rank_hours)} rank-hours"
    text += f" ({rest})" if rest else ""
    return text if total.cost is None else f"{text}, cost {money(total.cost)} {currency(recipe)}"


def left_out(lines: int) -> str:
    """What is said of damaged lines of the ledger."""
    return f"{KEY}: {lines} damaged line{'s' if lines > 1 else ''} left out"


def currency(recipe: Recipe) -> str:
    """The unit of every cost."""
    assert recipe.price is not None
    return recipe.price.currency


def shown(category: str) -> str:
    """A category's name for people."""
    return "start-up" if category == "start_up" else category.replace("_", " ")


def percent(share: float) -> str:
    """A part of a whole, with one decimal."""
    return f"{100 * share:.1f}"


def hours(amount: float) -> str:
    """Three digits, or all of them before the point."""
    return f"{amount:,.0f}" if amount >= 100 else f"{amount:.3g}"


def money(amount: float) -> str:
    """Two decimals, or two digits of what is less than a tenth."""
    return f"{amount:,.2f}" if amount >= 0.1 or not amount else f"{amount:.2g}"


def _spending(name: str, rows: Sequence[Row], *, recipe: Recipe) -> Spending:
    return Spending(name=name, spent=spent(rows), cost=_cost(rows, recipe=recipe))


def _cost(rows: Sequence[Row], *, recipe: Recipe) -> float | None:
    """By today's price of a stage's worker; a stage that the recipe no longer has costs nothing."""
    if recipe.price is None:
        return None
    rates = {stage.id: recipe.price.rank_hour(stage.compute) for stage in recipe.stages}
    return sum((row.end - row.start) / _HOUR_S * rates.get(row.stage, 0.0) for row in rows)

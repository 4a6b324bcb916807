"""The table of `rushes status` that says what the ranks' time was spent on."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from orchestrator.launch.spending import Spending, hours, money, percent

# Short, so that all of them fit beside each other in 100 columns.
_HEADS = {
    "communication": "comm.",
    "evaluation": "eval",
    "data_wait": "data\nwait",
    "save_blocked": "save",
    "start_up": "start\nup",
    "repeated": "repeat",
    "detection": "detect",
}
_ROOMY = 8  # categories at most that have wide gaps between them


def spending_table(stages: Sequence[Spending], *, total: Spending, currency: str | None) -> Table:
    """A row per stage and one for all; categories in which nothing was spent are left out.

    Args:
        stages: of each stage.
        total: of them all.
        currency: of the costs; None where there are none.
    """
    categories = [one for one in total.spent.seconds if _is_seen(one, stages=stages)]
    table = Table(
        title="where the time of all ranks went, in percent",
        box=box.SIMPLE_HEAD,
        padding=(0, 1 if len(categories) <= _ROOMY else 0),
    )
    heads = ["rank\nhours", "goodput", *(_HEADS.get(one, one) for one in categories)]
    if currency is not None:
        heads.append(f"cost\n{currency}")
    table.add_column("stage", overflow="fold")
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for one in stages:
        table.add_row(*_cells(one, categories=categories))
    table.add_section()
    table.add_row(*_cells(total, categories=categories))
    return table


def _cells(one: Spending, *, categories: Sequence[str]) -> list[str]:
    shares = [_share(one, category) for category in categories]
    cost = [] if one.cost is None else [money(one.cost)]
    return [one.name, hours(one.rank_hours), percent(one.spent.goodput), *shares, *cost]


def _share(one: Spending, category: str) -> str:
    text = percent(one.spent.share(category))
    return "" if text == "0.0" else text


def _is_seen(category: str, *, stages: Sequence[Spending]) -> bool:
    return any(_share(one, category) for one in stages)

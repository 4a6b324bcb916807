"""What `rushes plan` shows of failures."""

from collections.abc import Iterator

from rich import box
from rich.table import Table

from orchestrator.launch.plan_tables import money, span
from orchestrator.plan.expect import AmongFailures
from orchestrator.plan.plan import RunPlan

_WORTH = 0.002  # of goodput: a better interval is named from here on


def failures_table(plan: RunPlan) -> Table:
    """A row per stage that trains: what failures make of it; and one for all."""
    table = Table(title="among failures", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("stage", overflow="fold")
    for head in (
        *("one in", "expected", "save\nevery", "held\nup", "goodput", "5 to 95 %"),
        *("time", f"cost\n{plan.currency}", "Daly", "best"),
    ):
        table.add_column(head, justify="right", no_wrap=True)
    for stage in plan.stages:
        if stage.failures is None:
            continue
        found, expected = stage.failures, stage.failures.expected
        table.add_row(
            stage.stage,
            span(found.mtbf_s),
            f"{expected.failures:.3g}" if expected.ends else "-",
            str(found.save_every),
            span(found.save_s),
            f"{expected.goodput:.1%}",
            f"{100 * expected.low:.1f} - {100 * expected.high:.1f}",
            span(expected.seconds),
            money(stage.likely_cost),
            str(found.daly_every),
            str(found.best_every),
        )
    table.add_section()
    table.add_row(
        *("all", "", "", "", "", "", ""), span(plan.likely_seconds), money(plan.likely_cost), "", ""
    )
    return table


def failure_notes(plan: RunPlan) -> Iterator[str]:
    """What would lose less, once for stages that are alike."""
    found: dict[str, list[str]] = {}
    for stage in plan.stages:
        if stage.failures is not None:
            for note in _notes(stage.failures):
                found.setdefault(note, []).append(stage.stage)
    for note, stages in found.items():
        yield f"{', '.join(stages)}: {note}"


def _notes(found: AmongFailures) -> Iterator[str]:
    if not found.expected.ends:
        yield (
            f"never ends: its GPUs fail once in {span(found.mtbf_s)}, a save counts "
            f"{span(found.save_s + found.commit_s)} after it begins"
        )
    if found.gain > _WORTH:
        yield f"{100 * found.gain:.1f} points of goodput with save.every_steps={found.best_every}"
    if len(found.sizes) > 1:
        yield f"goes on with {', '.join(map(str, found.sizes[:-1]))} GPUs too"

"""What `rushes plan` shows of a plan."""

from collections.abc import Iterable, Iterator
from math import isinf

from rich import box
from rich.table import Table

from orchestrator.plan.choose import Option
from orchestrator.plan.gpus import GIB
from orchestrator.plan.plan import Layouts, RunPlan, StagePlan
from orchestrator.plan.remedy import changes

NOTHING = "-"
_UNITS = ("", "k", "M", "G", "T", "P", "E")
_MEMORY = (
    *("weights", "gradients", "optimizer", "ema", "activations"),
    *("buffers", "beside", "total"),
)


def stage_table(plan: RunPlan) -> Table:
    """A row per stage: its size, its GPUs, its time and its money; and one for all."""
    table = _table(f"{plan.recipe} on {plan.gpu}", ("stage", "kind"))
    for head in (
        *("weights", "FLOP\na clip", "GPUs", "steps", "step", "time"),
        *(f"cost\n{plan.currency}", "reads", "stores"),
    ):
        table.add_column(head, justify="right", no_wrap=True)
    for stage in plan.stages:
        step = stage.layouts.chosen.step.total if stage.layouts else None
        table.add_row(
            stage.stage,
            stage.kind,
            short(stage.parameters),
            short(stage.clip_flops),
            str(stage.ranks),
            short(stage.steps or None),
            span(step),
            span(stage.seconds),
            money(stage.cost),
            size(stage.read_bytes),
            size(stage.stored_bytes),
        )
    table.add_section()
    reads = sum(stage.read_bytes for stage in plan.stages)
    stores = sum(stage.stored_bytes for stage in plan.stages)
    table.add_row(
        *("all", "", "", "", str(plan.gpus or ""), "", ""),
        *(span(plan.seconds), money(plan.cost), size(reads), size(stores)),
    )
    return table


def memory_table(plan: RunPlan) -> Table:
    """GiB on each GPU of every stage that trains, at the moment that needs most."""
    table = _table("memory of each GPU, in GiB", ("stage",))
    for head in _MEMORY:
        table.add_column("optim." if head == "optimizer" else head, justify="right", no_wrap=True)
    for stage, layouts in _trained(plan):
        held = layouts.chosen.memory
        table.add_row(stage.stage, *(gib(getattr(held, head)) for head in _MEMORY))
    return table


def layout_table(plan: RunPlan) -> Table:
    """How every stage trains, and what its step is made of."""
    table = _table("layouts", ("stage", "layout"))
    for head in ("computing", "sending", "optimizer", "recipe's own"):
        table.add_column(head, justify="right")
    for stage, layouts in _trained(plan):
        step = layouts.chosen.step
        parts = map(span, (step.compute, step.communication, step.optimizer))
        table.add_row(stage.stage, layouts.chosen.layout.name, *parts, _own(layouts))
    return table


def _own(layouts: Layouts) -> str:
    own, chosen = layouts.own, layouts.chosen
    if own is None:
        return "does not split the batch"
    if own.layout == chosen.layout:
        return "the same"
    if not own.fits:
        return f"{own.layout.name}: needs {gib(own.memory.needed())} GiB"
    return f"{own.layout.name}: {own.step.total / chosen.step.total:.2f} x the step"


def other_layouts(plan: RunPlan) -> Iterator[str]:
    """Why others were not chosen, once for stages that are alike."""
    found: dict[tuple[str, ...], list[str]] = {}
    for stage, layouts in _trained(plan):
        found.setdefault(tuple(_reasons(layouts)), []).append(stage.stage)
    for reasons, stages in found.items():
        yield f"{', '.join(stages)}: {_head(plan)}"
        yield from reasons
    for stage, layouts in _trained(plan):
        faster = layouts.chosen.step.total / layouts.best.step.total
        if faster > 1.01:
            words = changes(stage.stage, old=layouts.chosen.layout, new=layouts.best.layout)
            yield f"{stage.stage}: {faster:.2f} x faster with {' '.join(words)}"


def _head(plan: RunPlan) -> str:
    return "the recipe's layout; others:" if plan.gpus is None else "the best layout; others:"


def _reasons(layouts: Layouts) -> Iterator[str]:
    yield f"  {layouts.chosen.layout.name:<28} {_cost(layouts.chosen)}"
    for one in layouts.lost:
        yield f"  {one.option.layout.name:<28} {_cost(one.option)}  {one.why}"


def _cost(option: Option) -> str:
    return f"{gib(option.memory.total):>8} GiB {span(option.step.total):>9}"


def notes(plan: RunPlan) -> Iterator[str]:
    """What the numbers do not say by themselves."""
    if plan.gpus is None:
        yield (
            "GPUs are the recipe's workers, one each; --nodes N lays every stage out over N x "
            f"{plan.gpus_per_node} of them"
        )
    for stage, layouts in _trained(plan):
        if layouts.chosen.step.total > stage.hang_after_s:
            yield (
                f"{stage.stage}: raise compute.hang_after_s={stage.hang_after_s:g} above "
                f"the {layouts.chosen.step.total:.0f} of a step, or its gang counts as hanging"
            )
    unknown = [stage.stage for stage in plan.stages if stage.seconds is None]
    if unknown:
        yield f"no time for {', '.join(unknown)}: the recipe does not say how many clips there are"
    yield (
        "time is training alone where failures are not named. Reads are decoded clips. "
        "docs/plan.md says what is counted and what is assumed"
    )


def _trained(plan: RunPlan) -> Iterable[tuple[StagePlan, Layouts]]:
    return [(stage, stage.layouts) for stage in plan.stages if stage.layouts is not None]


def _table(title: str, words: tuple[str, ...]) -> Table:
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in words:
        table.add_column(name, overflow="fold")
    return table


def short(value: float | None) -> str:
    """Three digits and the thousands as a letter."""
    if value is None:
        return NOTHING
    thousands = 0
    while value >= 999.5 and thousands < len(_UNITS) - 1:
        value /= 1000
        thousands += 1
    return f"{value:.3g}{_UNITS[thousands]}"


def size(count: float) -> str:
    """Bytes, in powers of 1000."""
    return f"{short(count)}B" if count else NOTHING


def gib(count: float) -> str:
    """Bytes in GiB, two digits after the point where there are few."""
    found = count / GIB
    return f"{found:.1f}" if found >= 10 else f"{found:.2f}"


def money(value: float | None) -> str:
    """Whole units from 100 on."""
    if value is None:
        return NOTHING
    if isinf(value):
        return "no end"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def span(seconds: float | None) -> str:
    """Seconds in the unit that suits them."""
    if seconds is None:
        return NOTHING
    if isinf(seconds):
        return "never"
    for unit, length in (("d", 86_400.0), ("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3)):
        if seconds >= length:
            count = seconds / length
            return f"{count:.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
    return "0 s" if not seconds else f"{seconds * 1e6:.3g} us"

"""Layouts of plan_order.py: how a recipe asks for them, and pairs of them, in tables."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from layouts import Took

from orchestrator.plan.choose import Option

# Planned times that differ by less are no order: either may be off by 12 %, less than the 15 % that
# the plan is held to on GPUs.
MARGIN = 1.25


@dataclass(frozen=True)
class Case:
    """A stage of a recipe; ``batch`` clips a step."""

    name: str
    recipe: str
    stage: str
    batch: int
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Way:
    """A layout as a recipe asks for it."""

    workers: int  # 0: one plain process
    zero: int
    passes: int
    checkpointing: bool = False

    @property
    def ranks(self) -> int:
        """Processes."""
        return max(self.workers, 1)

    @property
    def key(self) -> str:
        """Names it to the processes."""
        return repr(self)

    def overrides(self, case: Case) -> tuple[str, ...]:
        """What is changed in the recipe."""
        train, compute = f"stages.{case.stage}.train", f"stages.{case.stage}.compute"
        return (
            *case.overrides,
            f"{train}.batch={case.batch}",
            f"{train}.micro_batch={case.batch // (self.ranks * self.passes)}",
            f"{train}.checkpointing={str(self.checkpointing).lower()}",
            f"{compute}.workers={self.workers}",
            f"{compute}.zero={self.zero}",
        )


@dataclass(frozen=True)
class Layouts:
    """A case measured, by way: the steps of every round, the slowest rank's."""

    case: Case
    took: Mapping[Way, list[Took]]

    def step_s(self, way: Way) -> float:
        """The median."""
        return statistics.median(one.step for one in self.took[way])

    def ratio(self, way: Way, other: Way) -> float:
        """Of a round's steps, the median of all rounds."""
        pairs = zip(self.took[way], self.took[other], strict=True)
        return statistics.median(one.step / two.step for one, two in pairs)

    def busy_ratio(self, way: Way, other: Way) -> float:
        """The same of processors' time, which knows no waiting."""
        pairs = zip(self.took[way], self.took[other], strict=True)
        return statistics.median(one.busy / two.busy for one, two in pairs)


@dataclass(frozen=True)
class Pair:
    """Two layouts, the one that is planned to be slower first."""

    case: str
    slower: str
    faster: str
    planned: float  # ratio of their times
    measured: float
    busy: float  # of processors' time
    told: bool  # the plan was told what both took

    @property
    def is_judged(self) -> bool:
        """Whether the plan says which one is slower."""
        return self.planned >= MARGIN and not self.told

    @property
    def is_right(self) -> bool:
        """Whether it is."""
        return self.measured > 1.0


def pairs(found: Layouts, options: Mapping[Way, Option], *, told: tuple[Way, Way]) -> list[Pair]:
    """All of a case, the farthest apart first; ``told`` are what the plan's row was made of."""
    result: list[Pair] = []
    for one, other in combinations(found.took, 2):
        slower, faster = sorted((one, other), key=lambda way: -options[way].step.total)
        result.append(
            Pair(
                case=found.case.name,
                slower=name(slower, options),
                faster=name(faster, options),
                planned=options[slower].step.total / options[faster].step.total,
                measured=found.ratio(slower, faster),
                busy=found.busy_ratio(slower, faster),
                told=one in told and other in told,
            )
        )
    return sorted(result, key=lambda pair: -pair.planned)


def layouts_table(found: Layouts, options: Mapping[Way, Option]) -> str:
    """Every layout of a case, and what its planned step is made of, in milliseconds."""
    lines = [
        "| model | layout | planned | passes | sends | optimizer | measured | passes "
        "| processor | measured / planned |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way, option in options.items():
        step = option.step
        passes, busy = (
            statistics.median(getattr(one, part) for one in found.took[way])
            for part in ("passes", "busy")
        )
        parts = (step.total, step.compute, step.communication, step.optimizer)
        shown = " | ".join(
            f"{1000 * one:.0f} ms" for one in (*parts, found.step_s(way), passes, busy)
        )
        lines.append(
            f"| {found.case.name} | {name(way, options)} | {shown} "
            f"| {found.step_s(way) / step.total:.2f} |"
        )
    return "\n".join(lines)


def pairs_table(found: Sequence[Pair]) -> str:
    """Those that the plan puts in an order."""
    lines = [
        "| model | slower | faster | planned ratio | measured ratio | of processors | order |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {one.case} | {one.slower} | {one.faster} | {one.planned:.2f} | {one.measured:.2f} "
        f"| {one.busy:.2f} | {'right' if one.is_right else 'wrong'} |"
        for one in found
        if one.is_judged
    ]
    return "\n".join(lines)


def name(way: Way, options: Mapping[Way, Option]) -> str:
    """Of a layout, as the plan shows it."""
    return f"{way.ranks} worker{'s' if way.ranks > 1 else ''}, {options[way].layout.name}"

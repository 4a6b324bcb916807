"""Every legal layout of a stage, the best of them, and why the others are not it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from orchestrator.plan.facts import Training
from orchestrator.plan.gpus import GIB
from orchestrator.plan.layout import Layout, as_written, legal_layouts
from orchestrator.plan.memory import Memory, memory
from orchestrator.plan.timing import Cluster, StepTime, step_time
from orchestrator.recipe.stage import Stage

_SAME = 0.01  # of a step: no difference that these estimates can tell


@dataclass(frozen=True)
class Option:
    """A layout with what it takes."""

    layout: Layout
    memory: Memory
    step: StepTime
    fits: bool


@dataclass(frozen=True)
class Lost:
    """The best layout of a kind that was not chosen, and why."""

    option: Option
    why: str


def weigh(stage: Stage, facts: Training, layout: Layout, *, cluster: Cluster) -> Option:
    """Memory and time of one layout."""
    train = stage.training
    bf16 = train.precision == "bf16"
    held = memory(facts, layout, bf16=bf16)
    return Option(
        layout=layout,
        memory=held,
        step=step_time(facts, layout, cluster=cluster, bf16=bf16, compiled=train.compile),
        fits=held.needed() <= cluster.gpu.memory_bytes,
    )


def written(stage: Stage, facts: Training, *, ranks: int, cluster: Cluster) -> Option:
    """The recipe's own layout."""
    return weigh(stage, facts, as_written(stage, ranks=ranks), cluster=cluster)


def options(stage: Stage, facts: Training, *, ranks: int, cluster: Cluster) -> list[Option]:
    """All legal ones."""
    return [
        weigh(stage, facts, layout, cluster=cluster) for layout in legal_layouts(stage, ranks=ranks)
    ]


def best(found: Iterable[Option]) -> Option | None:
    """The fastest that fits; of those as fast as it, on the fewest GPUs the least of memory.

    Sharing clips saves memory, but how long it takes is not known to 1 %: it is for what needs it.
    """
    fitting = [one for one in found if one.fits]
    if not fitting:
        return None
    fastest = min(one.step.total for one in fitting)
    equal = [one for one in fitting if one.step.total <= fastest * (1 + _SAME)]
    return min(
        equal,
        key=lambda one: (one.layout.ranks, one.layout.sharing, one.memory.total, one.step.total),
    )


def lost(found: Iterable[Option], *, chosen: Option, cluster: Cluster) -> Iterator[Lost]:
    """For every other ZeRO stage, with and without recomputation, its best layout."""

    def kind(one: Option) -> tuple[int, bool]:
        return one.layout.zero, one.layout.checkpointing

    for name, group in groupby(sorted(found, key=kind), key=kind):
        members = list(group)
        if name == kind(chosen):
            continue
        option = best(members) or min(members, key=lambda one: one.memory.total)
        yield Lost(option=option, why=_why(option, chosen=chosen, cluster=cluster))


def _why(option: Option, *, chosen: Option, cluster: Cluster) -> str:
    if not option.fits:
        has = cluster.gpu.memory_bytes / GIB
        return f"needs {option.memory.needed() / GIB:.1f} GiB, {cluster.name} has {has:.0f}"
    ratio = option.step.total / chosen.step.total
    if ratio > 1 + _SAME:
        more = {
            "more computing": option.step.compute - chosen.step.compute,
            "more sending": option.step.communication - chosen.step.communication,
            "a longer optimizer step": option.step.optimizer - chosen.step.optimizer,
        }
        return f"{ratio:.2f} x the step: {max(more, key=lambda name: more[name])}"
    if ratio < 1 - _SAME:
        return f"{ratio:.2f} x the step: faster"
    difference = (option.memory.total - chosen.memory.total) / GIB
    return f"as fast, {abs(difference):.1f} GiB {'less' if difference < 0 else 'more'}"

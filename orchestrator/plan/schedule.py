"""When every stage of a graph runs, and which of them decide when the run ends."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.plan.graph import stage_graph, stages_after
from orchestrator.recipe.recipe import Recipe


@dataclass(frozen=True)
class Slot:
    """When a stage runs, in seconds after the run's start.

    Attributes:
        critical: whether the run would end earlier if it did.
    """

    start: float
    end: float
    critical: bool


def schedule(
    recipe: Recipe,
    *,
    seconds: Mapping[str, float],
    ranks: Mapping[str, int],
    capacity: int | None,
) -> dict[str, Slot]:
    """Slots by stage: a stage starts when what it needs is done and its GPUs are free.

    Of stages that could start, the one with the longest chain behind it goes first.

    Args:
        recipe: whose stages they are.
        seconds: that each takes.
        ranks: GPUs that each takes, none more than there are.
        capacity: GPUs in all; None: as many as are asked for.
    """
    needs, after = stage_graph(recipe), stages_after(recipe)
    waiting = sorted(needs, key=lambda stage: -after[stage])
    starts: dict[str, float] = {}
    ends: dict[str, float] = {}
    now = 0.0
    while waiting:
        done = {stage for stage, end in ends.items() if end <= now}
        for stage in list(waiting):
            free = _free(capacity, ranks, running=set(ends) - done)
            if done.issuperset(needs[stage]) and ranks[stage] <= free:
                waiting.remove(stage)
                starts[stage], ends[stage] = now, now + seconds[stage]
                if not seconds[stage]:
                    done.add(stage)
        later = [end for end in ends.values() if end > now]
        now = min(later, default=now)
    critical = _critical(needs, starts, ends)
    return {
        stage: Slot(start=starts[stage], end=ends[stage], critical=stage in critical)
        for stage in needs
    }


def _free(capacity: int | None, ranks: Mapping[str, int], *, running: set[str]) -> float:
    if capacity is None:
        return float("inf")
    return capacity - sum(ranks[stage] for stage in running)


def _critical(
    needs: Mapping[str, tuple[str, ...]], starts: Mapping[str, float], ends: Mapping[str, float]
) -> set[str]:
    """From the stage that ends last backwards, whatever each one waited for: a need, else GPUs."""
    stage = max(ends, key=lambda one: ends[one])
    found = {stage}
    while starts[stage] > 0.0:
        before = [one for one in ends if ends[one] == starts[stage] and one not in found]
        needed = [one for one in before if one in needs[stage]]
        if not before:
            break
        stage = max(needed or before, key=lambda one: ends[one] - starts[one])
        found.add(stage)
    return found

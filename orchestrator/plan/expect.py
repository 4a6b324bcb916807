"""What failures make of a stage: its goodput, its time, and how often it should save."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import ceil, inf, isfinite

from orchestrator.plan.averages import Expected, together
from orchestrator.plan.choose import Option, weigh
from orchestrator.plan.facts import Training
from orchestrator.plan.failures import Failures
from orchestrator.plan.interval import choose_every_steps, daly_interval_s
from orchestrator.plan.schedule import schedule
from orchestrator.plan.simulate import Work, simulate
from orchestrator.plan.timing import Cluster
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage

_HOUR_S = 3600.0
_FAILURES = 2_000  # in all runs of a simulation together, about
_MOST_RUNS = 200
# Failures after which a longer stage is taken to go on as it began: 6 runs with so many.
_SEEN = 330
# Where the best interval is looked for: failures, runs, and multiples of Daly's interval.
_LONG, _LONG_RUNS = 100, 2
_MULTIPLES = (0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0, 16.0)
_EQUAL = 0.001  # of goodput: of intervals as good as the best, the longest writes least


@dataclass(frozen=True)
class Assumed:
    """What a user says of failures.

    Attributes:
        failures: rates and times.
        elastic: whether gangs go on with fewer nodes; None: as the recipe says of each stage.
        seed: of the simulation.
    """

    failures: Failures
    elastic: bool | None = None
    seed: int = 0


@dataclass(frozen=True)
class AmongFailures:
    """A stage among failures.

    Attributes:
        expected: with the recipe's own interval between saves.
        mtbf_s: seconds between failures of the whole gang.
        sizes: GPUs that the gang may have, the smallest first.
        save_every: the recipe's interval in steps; what `auto` would choose, if it says that.
        save_s: for which a save holds training up.
        commit_s: from there until it counts.
        daly_every: Daly's interval, in steps.
        best_every: the longest of those with the highest goodput in a long simulation, in steps.
        gain: of goodput, by it, in that simulation.
    """

    expected: Expected
    mtbf_s: float
    sizes: tuple[int, ...]
    save_every: int
    save_s: float
    commit_s: float
    daly_every: int
    best_every: int
    gain: float


def among_failures(
    stage: Stage,
    facts: Training,
    chosen: Option,
    *,
    cluster: Cluster,
    checkpoint_bytes: int,
    assumed: Assumed,
) -> AmongFailures:
    """Simulates a stage in its chosen layout."""
    failures, ranks = assumed.failures, chosen.layout.ranks
    nodes = ceil(ranks / cluster.gpus_per_node)
    node_mttf_s = failures.node_mttf_h * _HOUR_S
    mtbf_s, step_s = node_mttf_s / nodes, chosen.step.total
    save_s = checkpoint_bytes / ranks / (failures.copy_gb_s * 1e9)
    stored_s = checkpoint_bytes / nodes / (failures.store_gb_s * 1e9)
    # Where nothing is sharded every rank reads all of it; else each its part.
    read_s = stored_s * (1 if chosen.layout.zero else ranks)
    every = stage.save.every_steps
    if not isinstance(every, int):
        every = choose_every_steps(
            cost_s=save_s, write_s=save_s + stored_s, mtbf_s=mtbf_s, step_s=step_s
        )
    sizes = _sizes(stage, facts, chosen, cluster=cluster, elastic=assumed.elastic)
    work = Work(
        steps=stage.training.steps,
        gangs=tuple(
            (ceil(size / cluster.gpus_per_node), one) for size, one in sorted(sizes.items())
        ),
        save_every=every,
        save_s=save_s,
        commit_s=stored_s,
        start_s=failures.restart_s,
        restart_s=failures.restart_s + read_s,
        detect_s=failures.detect_s,
        replace_s=failures.replace_s,
    )
    daly_s = daly_interval_s(cost_s=save_s, mtbf_s=mtbf_s)
    long = _long_runs(
        replace(work, steps=ceil(_LONG * mtbf_s / step_s)),
        daly_s=daly_s,
        node_mttf_s=node_mttf_s,
        seed=assumed.seed,
    )
    highest = max(long.values())
    best = max(every for every, goodput in long.items() if goodput >= highest - _EQUAL)
    return AmongFailures(
        expected=_expected(work, node_mttf_s=node_mttf_s, seed=assumed.seed),
        mtbf_s=mtbf_s,
        sizes=tuple(sorted(sizes)),
        save_every=every,
        save_s=save_s,
        commit_s=stored_s,
        daly_every=max(1, round(daly_s / step_s)),
        best_every=best,
        gain=long[best] - long[every],
    )


@cache
def _expected(work: Work, *, node_mttf_s: float, seed: int) -> Expected:
    """What some runs say, remembered: students of one teacher are much alike."""
    mtbf_s = node_mttf_s / work.nodes
    steps = min(work.steps, ceil(_SEEN * mtbf_s / work.step_s))
    likely = steps * work.step_s / mtbf_s
    runs = min(int(_FAILURES / (1.0 + likely)), _MOST_RUNS)
    seen = simulate(replace(work, steps=steps), node_mttf_s=node_mttf_s, seed=seed, runs=runs)
    return together(seen, nodes=work.nodes).longer(work.steps / steps)


def _sizes(
    stage: Stage, facts: Training, chosen: Option, *, cluster: Cluster, elastic: bool | None
) -> Mapping[int, float]:
    """Seconds of a step by GPUs: whole nodes that split the batch evenly and hold the stage."""
    layout, found = chosen.layout, {chosen.layout.ranks: chosen.step.total}
    if not (stage.compute.is_elastic if elastic is None else elastic):
        return found
    if stage.training.objective.kind == "contrastive":  # a batch is one pass of all
        return found
    least = stage.compute.least_ranks if elastic is None else 1
    clips = stage.training.batch * layout.sharing  # one for each GPU of a group
    for ranks in range(cluster.gpus_per_node, layout.ranks, cluster.gpus_per_node):
        passes, left = divmod(clips, layout.micro_batch * ranks)
        if left or ranks < least or ranks % layout.sharing:
            continue
        smaller = replace(layout, ranks=ranks, accumulation=passes)
        option = weigh(stage, facts, smaller, cluster=cluster)
        if option.fits:
            found[ranks] = option.step.total
    return found


@cache
def _long_runs(work: Work, *, daly_s: float, node_mttf_s: float, seed: int) -> dict[int, float]:
    """Goodput by interval, with the same failures, of a stage long enough to see many of them."""
    least = ceil((work.save_s + work.commit_s) / work.step_s)  # no save waits for the last
    intervals = {max(least, round(daly_s * one / work.step_s), 1) for one in _MULTIPLES}
    found: dict[int, float] = {}
    for every in sorted(intervals | {work.save_every}):
        saving = replace(work, save_every=every)
        runs = simulate(saving, node_mttf_s=node_mttf_s, seed=seed, runs=_LONG_RUNS)
        found[every] = together(runs, nodes=work.nodes).goodput
    return found


def likely_end(
    recipe: Recipe,
    seconds: Mapping[str, float | None],
    failures: Mapping[str, AmongFailures],
    *,
    ranks: Mapping[str, int],
    capacity: int | None,
) -> float:
    """Seconds to the end of a run whose stages take as long as they do on average.

    Args:
        recipe: whose stages they are.
        seconds: of each without failures; None counts as none.
        failures: of those that train.
        ranks: GPUs of each.
        capacity: GPUs in all; None: as many as are asked for.
    """
    likely = {stage: one or 0.0 for stage, one in seconds.items()}
    likely |= {stage: one.expected.seconds for stage, one in failures.items()}
    if not all(map(isfinite, likely.values())):
        return inf
    slots = schedule(recipe, seconds=likely, ranks=ranks, capacity=capacity)
    return max(slot.end for slot in slots.values())

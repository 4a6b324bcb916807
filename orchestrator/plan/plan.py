"""A whole recipe: where every stage runs, how long it takes, what it costs and stores."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from orchestrator.errors import UserError
from orchestrator.plan.choose import Lost, Option, best, lost, options, written
from orchestrator.plan.expect import AmongFailures, Assumed, among_failures, likely_end
from orchestrator.plan.facts import Facts, Training
from orchestrator.plan.gpus import Gpu
from orchestrator.plan.layout import legal_ranks
from orchestrator.plan.remedy import refusal
from orchestrator.plan.schedule import Slot, schedule
from orchestrator.plan.timing import Cluster, passing_time
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage

STATE_BYTES = 16  # of a checkpoint per weight: master, two moments, EMA
WEIGHT_BYTES = 4  # of a finished stage's weights
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Layouts:
    """How a stage trains, and how else it could.

    Attributes:
        chosen: what the rest of the plan is about.
        own: the recipe's own layout; None where the asked GPUs do not split its batch.
        best: the fastest that fits on the same GPUs.
        lost: the best of the other kinds, and what is wrong with them.
    """

    chosen: Option
    own: Option | None
    best: Option
    lost: tuple[Lost, ...]


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        stage: its id.
        kind: train, distill, encode or evaluate.
        parameters: weights that it trains, or runs.
        clip_flops: of one clip: forward, backward, and what frozen networks answer; None for a
            stage that trains nothing.
        ranks: GPUs that it takes.
        layouts: None for a stage that trains nothing.
        steps: optimizer steps; 0 for a stage that trains nothing.
        hang_after_s: in one step, then a gang is taken for one that hangs.
        seconds: from its first step to its last; None if nobody knows how much there is to do.
        cost: in the plan's currency.
        read_bytes: training clips as they are decoded: more than what travels if they are videos.
        checkpoint_bytes: of one checkpoint.
        stored_bytes: checkpoints that are kept at the end, and the finished weights.
        slot: when it runs.
        failures: what they make of it; None for a stage that trains nothing, or if not asked.
        likely_cost: with them; infinite if it would never end.
    """

    stage: str
    kind: str
    parameters: int
    clip_flops: float | None
    ranks: int
    layouts: Layouts | None
    steps: int
    hang_after_s: float
    seconds: float | None
    cost: float | None
    read_bytes: int
    checkpoint_bytes: int
    stored_bytes: int
    slot: Slot
    failures: AmongFailures | None
    likely_cost: float | None


@dataclass(frozen=True)
class RunPlan:
    """All stages, in the recipe's order.

    Attributes:
        recipe: its name.
        gpu: name of the GPU.
        gpus: in all; None if every stage has those that the recipe gives it.
        gpus_per_node: of them.
        currency: of the costs.
        stages: one plan each.
        likely_seconds: from start to end with starts, saves and failures; infinite if a stage
            would never end, None if not asked.
    """

    recipe: str
    gpu: str
    gpus: int | None
    gpus_per_node: int
    currency: str
    stages: tuple[StagePlan, ...]
    likely_seconds: float | None

    @property
    def likely_cost(self) -> float:
        """Of the time that stages hold GPUs, failures and all."""
        return sum(stage.likely_cost or 0.0 for stage in self.stages)

    @property
    def seconds(self) -> float:
        """From the start of the run to its end."""
        return max(stage.slot.end for stage in self.stages)

    @property
    def cost(self) -> float:
        """Of the stages' own GPU hours; a cluster that waits costs more."""
        return sum(stage.cost or 0.0 for stage in self.stages)


def make_plan(
    recipe: Recipe,
    facts: Mapping[str, Facts],
    *,
    cluster: Cluster,
    gpus: int | None,
    table: Mapping[str, Gpu],
    assumed: Assumed | None = None,
) -> RunPlan:
    """Lays all stages out.

    Args:
        recipe: what is planned.
        facts: by stage, as ``orchestrator.train.measure`` counts them.
        cluster: which GPUs, and how many in a node.
        gpus: in all, over which every stage is laid out as fast as it can be; None: every stage
            has as many as the recipe says and trains in the recipe's own layout.
        table: of GPUs, in which a refusal looks for a larger one.
        assumed: of failures; None: nothing is simulated.

    Raises:
        UserError: if a stage does not fit: one line with the nearest change that would make it.
    """
    layouts = {
        stage.id: _layouts(stage, found, cluster=cluster, gpus=gpus, table=table)
        for stage in recipe.stages
        if isinstance(found := facts[stage.id], Training)
    }
    ranks = {stage.id: _ranks(stage, layouts.get(stage.id), gpus) for stage in recipe.stages}
    seconds = {
        stage.id: _seconds(stage, facts[stage.id], layouts.get(stage.id), ranks, cluster)
        for stage in recipe.stages
    }
    slots = schedule(
        recipe,
        seconds={stage: one or 0.0 for stage, one in seconds.items()},
        ranks=ranks,
        capacity=gpus,
    )
    failures = {
        stage.id: among_failures(
            stage,
            found,
            layouts[stage.id].chosen,
            cluster=cluster,
            checkpoint_bytes=STATE_BYTES * found.parameters,
            assumed=assumed,
        )
        for stage in recipe.stages
        if assumed is not None and isinstance(found := facts[stage.id], Training)
    }
    price = cluster.gpu.price
    if recipe.price is not None and recipe.price.gpu_hour:
        price = recipe.price.gpu_hour
    return RunPlan(
        recipe=recipe.name,
        gpu=cluster.name,
        gpus=gpus,
        gpus_per_node=cluster.gpus_per_node,
        currency="USD" if recipe.price is None else recipe.price.currency,
        stages=tuple(
            _stage(
                stage,
                facts[stage.id],
                layouts.get(stage.id),
                ranks=ranks[stage.id],
                seconds=seconds[stage.id],
                price=price,
                slot=slots[stage.id],
                failures=failures.get(stage.id),
            )
            for stage in recipe.stages
        ),
        likely_seconds=None
        if assumed is None
        else likely_end(recipe, seconds, failures, ranks=ranks, capacity=gpus),
    )


def _layouts(
    stage: Stage,
    facts: Training,
    *,
    cluster: Cluster,
    gpus: int | None,
    table: Mapping[str, Gpu],
) -> Layouts:
    counts = [stage.compute.ranks] if gpus is None else legal_ranks(stage, most=gpus)
    found = [one for ranks in counts for one in options(stage, facts, ranks=ranks, cluster=cluster)]
    if gpus is None:
        chosen = written(stage, facts, ranks=stage.compute.ranks, cluster=cluster)
    else:
        chosen = best(found) or min(found, key=lambda one: one.memory.total)
    if not chosen.fits:
        raise UserError(refusal(stage, facts, chosen, cluster=cluster, table=table, asked=gpus))
    ranks = chosen.layout.ranks
    found = [one for one in found if one.layout.ranks == ranks]
    own = written(stage, facts, ranks=ranks, cluster=cluster) if stage.splits_over(ranks) else None
    return Layouts(
        chosen=chosen,
        own=own,
        best=best(found) or chosen,
        lost=tuple(lost(found, chosen=chosen, cluster=cluster)),
    )


def _ranks(stage: Stage, layouts: Layouts | None, gpus: int | None) -> int:
    if layouts is not None:
        return layouts.chosen.layout.ranks
    return stage.compute.ranks if gpus is None else min(stage.compute.ranks, gpus)


def _seconds(
    stage: Stage,
    facts: Facts,
    layouts: Layouts | None,
    ranks: Mapping[str, int],
    cluster: Cluster,
) -> float | None:
    if isinstance(facts, Training):
        assert layouts is not None
        return layouts.chosen.step.total * stage.training.steps
    return passing_time(facts, gpu=cluster.gpu, ranks=ranks[stage.id])


def _stage(
    stage: Stage,
    facts: Facts,
    layouts: Layouts | None,
    *,
    ranks: int,
    seconds: float | None,
    price: float,
    slot: Slot,
    failures: AmongFailures | None,
) -> StagePlan:
    steps, read, checkpoint, stored, clip_flops = 0, 0, 0, 0, None
    if isinstance(facts, Training):
        steps = stage.training.steps
        read = steps * stage.training.batch * facts.clip_bytes
        checkpoint = STATE_BYTES * facts.parameters
        stored = _kept(stage) * checkpoint + WEIGHT_BYTES * facts.parameters
        clip_flops = facts.clip_flops
    cost = None if seconds is None else ranks * seconds / _HOUR_S * price
    likely_cost = cost
    if failures is not None:
        goes_on = failures.expected
        likely_cost = inf if not goes_on.ends else goes_on.gpu_s(ranks) / _HOUR_S * price
    return StagePlan(
        stage=stage.id,
        kind=stage.kind,
        parameters=facts.parameters,
        clip_flops=clip_flops,
        ranks=ranks,
        layouts=layouts,
        steps=steps,
        hang_after_s=stage.compute.hang_after_s,
        seconds=seconds,
        cost=cost,
        read_bytes=read,
        checkpoint_bytes=checkpoint,
        stored_bytes=stored,
        slot=slot,
        failures=failures,
        likely_cost=likely_cost,
    )


def _kept(stage: Stage) -> int:
    """Checkpoints at the end, at most."""
    save, steps = stage.save, stage.training.steps
    kept = save.keep
    if isinstance(save.every_steps, int):
        kept = min(kept, max(1, steps // save.every_steps))
    if save.keep_every_steps is not None:
        kept += steps // save.keep_every_steps
    return kept + (save.keep_best.count if save.keep_best is not None else 0)

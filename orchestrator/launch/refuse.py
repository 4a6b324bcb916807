"""`rushes train` takes no GPU for a stage that cannot fit it: the same line as `rushes plan`."""

from collections.abc import Callable, Sequence
from math import floor

from orchestrator.errors import UserError
from orchestrator.launch.check import uncollected
from orchestrator.launch.gpus_seen import SeenGpu
from orchestrator.plan.choose import written
from orchestrator.plan.facts import Training
from orchestrator.plan.gpus import DEFAULT, GIB, Gpu, load_gpus
from orchestrator.plan.remedy import refusal
from orchestrator.plan.timing import Cluster
from orchestrator.recipe.recipe import Recipe

_DRIVER_BYTES = GIB  # of a GPU's memory that driver and context take, at least


def refuse_unfit(
    recipe: Recipe, *, done: Callable[[str], bool], gpus: Callable[[], Sequence[SeenGpu]]
) -> str | None:
    """Raises if a stage that would train on GPUs fits none of those that there are.

    The largest GPU counts: where they differ, a stage may find it. A recipe without GPUs costs
    nothing, nor one whose stages on GPUs are done.

    Args:
        recipe: with its own layouts.
        done: whether a stage is finished.
        gpus: asked only if there is something to refuse.

    Returns:
        Why nothing could be checked, or None.

    Raises:
        UserError: the line of `rushes plan`.
    """
    stages = [
        stage
        for stage in recipe.stages
        if stage.train is not None and stage.compute.gpus_per_worker and not done(stage.id)
    ]
    if not stages:
        return None
    seen = gpus()
    if not seen:
        return "whether stages fit is not known: no GPU has answered"
    table = load_gpus()
    cluster = _cluster(max(seen, key=lambda one: one.memory_bytes), table=table)
    # Late: it imports torch.
    from orchestrator.train.measure import measure

    try:
        with uncollected():
            facts = measure(recipe)
    except ValueError as error:
        return f"whether stages fit is not known: {error}"
    for stage in stages:
        found = facts[stage.id]
        assert isinstance(found, Training)
        own = written(stage, found, ranks=stage.compute.ranks, cluster=cluster)
        if not own.fits:
            raise UserError(refusal(stage, found, own, cluster=cluster, table=table))
    return None


def _cluster(seen: SeenGpu, *, table: dict[str, Gpu]) -> Cluster:
    """A row of the table by the GPU's name, with the memory that it really has."""
    words = seen.name.replace("-", " ").split()
    known = next((name for name in table if name in words), DEFAULT)
    usable = floor((seen.memory_bytes - _DRIVER_BYTES) / GIB * 10) / 10
    gpu = table[known].model_copy(update={"memory": usable})
    return Cluster(name=seen.name, gpu=gpu, gpus_per_node=8)

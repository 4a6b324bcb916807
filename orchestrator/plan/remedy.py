"""What to change in a recipe that does not fit: as little as possible."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.plan.choose import Option, best, options
from orchestrator.plan.facts import Training
from orchestrator.plan.gpus import GIB, Gpu
from orchestrator.plan.layout import Layout
from orchestrator.plan.timing import Cluster
from orchestrator.recipe.stage import Stage

MOST_RANKS = 16_384


@dataclass(frozen=True)
class Remedy:
    """A change that makes a stage fit; ``text`` names it as a user would type it."""

    option: Option
    text: str


def changes(stage: str, *, old: Layout, new: Layout) -> list[str]:
    """Overrides that turn one layout into another."""
    fields = {
        "compute.workers": (old.ranks, new.ranks),
        "compute.zero": (old.zero, new.zero),
        "compute.sequence_parallel": (old.sharing, new.sharing),
        "train.micro_batch": (old.micro_batch, new.micro_batch),
        "train.checkpointing": (str(old.checkpointing).lower(), str(new.checkpointing).lower()),
    }
    return [
        f"--set stages.{stage}.{name}={wanted}"
        for name, (seen, wanted) in fields.items()
        if seen != wanted
    ]


def nearest(
    stage: Stage,
    facts: Training,
    *,
    own: Layout,
    cluster: Cluster,
    table: Mapping[str, Gpu],
    asked: int | None = None,
) -> Remedy | None:
    """The smallest change after which a stage fits.

    Another layout on the same GPUs, with as few fields changed as possible; else more of them;
    else larger ones. None if nothing in the table helps.

    Args:
        stage: that does not fit.
        facts: of it.
        own: how it would train.
        cluster: where.
        table: of GPUs.
        asked: GPUs that a user has asked for, over which stages are laid out; None: the recipe
            says how many.
    """

    def overrides(new: Option) -> str:
        return " ".join(changes(stage.id, old=own, new=new.layout))

    found = options(stage, facts, ranks=own.ranks, cluster=cluster)
    if fitting := [one for one in found if one.fits]:
        fewest = min(len(changes(stage.id, old=own, new=one.layout)) for one in fitting)
        near = [one for one in fitting if len(changes(stage.id, old=own, new=one.layout)) == fewest]
        option = min(near, key=lambda one: one.step.total)
        return Remedy(option, overrides(option))
    ranks = own.ranks
    while (ranks := 2 * ranks) <= MOST_RANKS:
        option = best(options(stage, facts, ranks=ranks, cluster=cluster))
        if option is not None:
            nodes = f"--nodes {-(-ranks // cluster.gpus_per_node)}: {ranks} GPUs"
            layout = option.layout.name
            return Remedy(option, overrides(option) if asked is None else f"{nodes}, {layout}")
    for name, gpu in sorted(table.items(), key=lambda row: row[1].memory):
        other = Cluster(name=name, gpu=gpu, gpus_per_node=cluster.gpus_per_node)
        option = best(options(stage, facts, ranks=own.ranks, cluster=other))
        if option is not None:
            text = f"{name} GPUs {overrides(option)}".strip()
            return Remedy(option, text if asked is None else f"--gpu {name}: {option.layout.name}")
    return None


def refusal(
    stage: Stage,
    facts: Training,
    seen: Option,
    *,
    cluster: Cluster,
    table: Mapping[str, Gpu],
    asked: int | None = None,
) -> str:
    """One line: what does not fit, by how much, and the nearest change that would."""
    field, layout = f"stages.{stage.id}", seen.layout
    needs = (
        f"{field} with {layout.name} needs {seen.memory.needed() / GIB:.1f} GiB on each of "
        f"{layout.ranks} GPUs, {cluster.name} has {cluster.gpu.memory:.0f}"
    )
    found = nearest(stage, facts, own=layout, cluster=cluster, table=table, asked=asked)
    if found is None:
        return f"{needs}; no layout on any GPU of the table fits, wanted a smaller clip or network"
    fits = found.option.memory.needed() / GIB
    return f"{needs}; nearest that fits ({fits:.1f} GiB): {found.text}"

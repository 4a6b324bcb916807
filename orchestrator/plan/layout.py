"""A way to lay a stage out over GPUs, and all that are legal."""

from collections.abc import Iterator
from dataclasses import dataclass

from models.sora.dit_config import DiTConfig
from orchestrator.recipe.stage import Stage

ZERO_STAGES = (0, 1, 2, 3)


@dataclass(frozen=True)
class Layout:
    """How one stage trains.

    Attributes:
        ranks: GPUs, each a process.
        zero: what is sharded: 0 nothing, 1 masters, moments and EMA, 2 gradients too, 3 weights
            too.
        micro_batch: clips per GPU per forward; of GPUs that share tokens, the same ones.
        accumulation: forward passes per GPU per optimizer step.
        checkpointing: whether blocks are recomputed in the backward pass.
        sharing: GPUs that share the tokens of each clip.
    """

    ranks: int
    zero: int
    micro_batch: int
    accumulation: int
    checkpointing: bool
    sharing: int = 1

    @property
    def name(self) -> str:
        """In one word per part, as tables show it."""
        recompute = ", recompute" if self.checkpointing else ""
        shared = f" on {self.sharing}" if self.sharing > 1 else ""
        return f"ZeRO {self.zero}, {self.accumulation} x {self.micro_batch}{shared}{recompute}"


def as_written(stage: Stage, *, ranks: int) -> Layout:
    """The recipe's own layout on so many GPUs, whether it is legal there or not."""
    train = stage.training
    is_plain = ranks == 1 and stage.compute.workers == 0
    return Layout(
        ranks=ranks,
        zero=0 if is_plain else stage.compute.zero,
        micro_batch=train.micro_batch,
        accumulation=max(1, stage.accumulation(ranks=ranks)),
        checkpointing=train.checkpointing,
        sharing=stage.compute.sequence_parallel,
    )


def legal_layouts(stage: Stage, *, ranks: int) -> Iterator[Layout]:
    """Every layout that gives each of ``ranks`` GPUs the same number of full passes.

    One GPU shards nothing, so there it is ZeRO 0 alone. A batch is what the recipe says, so a
    layout changes no loss curve; a contrastive batch is one pass of all GPUs. The heads of a
    diffusion transformer are split over the GPUs that share a clip.
    """
    for sharing in _sharings(stage, most=ranks):
        if ranks % sharing:
            continue
        for micro_batch in _micro_batches(stage, readers=ranks // sharing):
            for zero in ZERO_STAGES if ranks > 1 else (0,):
                for checkpointing in (False, True):
                    yield Layout(
                        ranks=ranks,
                        zero=zero,
                        micro_batch=micro_batch,
                        accumulation=stage.training.batch * sharing // (micro_batch * ranks),
                        checkpointing=checkpointing,
                        sharing=sharing,
                    )


def _sharings(stage: Stage, *, most: int) -> Iterator[int]:
    """GPUs that may share a clip."""
    yield 1
    model = stage.training.model
    if isinstance(model, DiTConfig):
        heads = model.shape.heads
        yield from (one for one in range(2, min(heads, most) + 1) if heads % one == 0)


def _micro_batches(stage: Stage, *, readers: int) -> Iterator[int]:
    batch = stage.training.batch
    if batch % readers:
        return
    share = batch // readers
    if stage.training.objective.kind == "contrastive":
        yield share
        return
    for micro_batch in range(1, share + 1):
        if share % micro_batch == 0:
            yield micro_batch


def legal_ranks(stage: Stage, *, most: int) -> list[int]:
    """How many GPUs may train a stage: for every number that may share a clip the most of ``most``.

    Groups that share clips split the batch evenly, so with them more GPUs find work than there are
    clips.
    """
    batch, found = stage.training.batch, set[int]()
    for sharing in _sharings(stage, most=most):
        groups = next(one for one in range(most // sharing, 0, -1) if batch % one == 0)
        found.add(groups * sharing)
    return sorted(found)

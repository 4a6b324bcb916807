"""The engines of a stage: one around each of its networks."""

from functools import partial

from orchestrator.recipe.stage import Stage
from orchestrator.train.engine.base import Engine, Kind
from orchestrator.train.engine.build import build_engine
from orchestrator.train.ranks import Ranks
from orchestrator.train.tasks.base import Task


def build_engines(
    stage: Stage, task: Task, *, ranks: Ranks, kind: Kind, zero: int
) -> dict[str, Engine]:
    """By name of the network; collective if there is more than one rank.

    Args:
        stage: whose precision, optimizer and batch they take.
        task: whose networks they wrap.
        ranks: this process and its peers.
        kind: see ``build_engine``.
        zero: see ``build_engine``.
    """
    train = stage.training
    return {
        name: build_engine(
            network.to(ranks.device),
            kind=kind,
            zero=zero,
            precision=train.precision,
            optim=train.optim,
            accumulation=stage.accumulation(ranks=ranks.world_size),
            ema_decay=train.ema,
            device=ranks.device,
            lr_scale=partial(task.lr_scale, name),
        )
        for name, network in task.networks.items()
    }

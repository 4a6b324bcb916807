"""What the ranks of a gang are told to do with steps that are refused."""

from typing import Any

import torch

from orchestrator.train.engine.base import Engine, StepOutcome
from orchestrator.train.ranks import Ranks
from orchestrator.train.schedule import learning_rate
from tests.numerics.tasks import OPTIM, SHORT, STEPS, Setup, micro_batches, state, train

SPIKE = 2  # step


def one_step(
    ranks: Ranks, engine: Engine, *, step: int, limit: float, factor: float
) -> StepOutcome:
    """A step whose last rank's losses are ``factor`` times too large."""
    for x, time, target in micro_batches(ranks, step=step):
        loss = (engine(x, time) - target).square().mean()
        engine.backward(loss * factor if ranks.rank == ranks.world_size - 1 else loss)
    return engine.step(lr=learning_rate(step, optim=OPTIM, steps=STEPS), limit=limit)


def spiked(ranks: Ranks, setup: Setup) -> dict[str, Any]:
    """A step that is refused for its norm, between good ones; and a run that never saw it."""
    norm = _norm_of_spike(ranks, setup)
    engine = setup.engine(ranks)
    train(ranks, engine, start=0, stop=SPIKE)
    before = state(ranks, engine)
    outcome = one_step(ranks, engine, step=SPIKE, limit=_below(norm), factor=1e3)
    after = state(ranks, engine)
    rest = train(ranks, engine, start=SPIKE + 1, stop=SHORT)
    end = state(ranks, engine)

    other = setup.engine(ranks)
    train(ranks, other, start=0, stop=SPIKE)
    rest_of_other = train(ranks, other, start=SPIKE + 1, stop=SHORT)
    return {
        "norm": norm,
        "outcome": (outcome.applied, outcome.grad_norm),
        "untouched": before == after,
        "rest": (rest, end) == (rest_of_other, state(ranks, other)),
        "applied": rest[2],
    }


def _norm_of_spike(ranks: Ranks, setup: Setup) -> float:
    """The spike's norm, which is just allowed here."""
    norms = []
    for limit in (float("inf"), None):
        engine = setup.engine(ranks)
        train(ranks, engine, start=0, stop=SPIKE)
        limit = norms[0] if limit is None else limit
        outcome = one_step(ranks, engine, step=SPIKE, limit=limit, factor=1e3)
        assert outcome.applied
        norms.append(outcome.grad_norm)
    assert norms[0] == norms[1]
    return norms[0]


def _below(norm: float) -> float:
    return torch.nextafter(torch.tensor(norm), torch.tensor(0.0)).item()


def two_limits(ranks: Ranks, setup: Setup) -> list[bool]:
    """Two engines in one process, of which one is limited."""
    first, second = setup.engine(ranks), setup.engine(ranks)
    limits = {"first": 1e-9, "second": float("inf")}
    return [
        one_step(ranks, engine, step=0, limit=limits[name], factor=1.0).applied
        for name, engine in (("first", first), ("second", second), ("second", first))
    ]

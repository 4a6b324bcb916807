"""A rank of a gang in which one rank is slow; for ``test_stragglers``."""

import time
from typing import Any

from orchestrator.recipe.recipe import Recipe
from orchestrator.train.loop import Loop
from orchestrator.train.ranks import Ranks
from orchestrator.train.worker import run
from tests.train.workers import Recorded, job_of


def train(
    ranks: Ranks, *, recipe: str, run_uri: str, slow_rank: int, delay_s: float
) -> list[dict[str, Any]]:
    """Trains the autoencoder; one rank takes a while longer over each step. Its events."""
    micros = Loop._micros

    def slowly(self: Loop, *args: Any, **kwargs: Any) -> Any:
        time.sleep(delay_s if ranks.rank == slow_rank else 0.0)
        return micros(self, *args, **kwargs)

    hooks = Recorded()
    Loop._micros = slowly
    try:
        run(job_of(Recipe.model_validate_json(recipe), "autoencoder", run_uri=run_uri), hooks=hooks)
    finally:
        Loop._micros = micros
    return hooks.events

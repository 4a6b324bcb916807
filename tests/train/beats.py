"""What ranks do in ``test_beat``."""

import time
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.recipe.recipe import Recipe
from orchestrator.train.beat import Beat
from orchestrator.train.collectives import last_collective, timed
from orchestrator.train.ledger import process_ledger
from orchestrator.train.ranks import Ranks
from orchestrator.train.worker import run
from tests.train.workers import Recorded, job_of

WAITING_BEATS = 2


class Waiting(Recorded):
    """Lets the other rank go once so many beats came out of a collective."""

    def __init__(self, go: Path | None) -> None:
        super().__init__()
        self._go = go
        self._seen = 0

    def event(self, event: dict[str, Any]) -> None:
        if self._go is not None and not event["collective"]["returned"]:
            event = event | {"described": last_collective()}
            self._seen += 1
        super().event(event)
        if self._seen == WAITING_BEATS and self._go is not None:
            self._go.touch()
            self._go = None


def while_rank_0_waits(ranks: Ranks, *, go: str) -> list[dict[str, Any]]:
    """Rank 1 comes to an all-reduce once rank 0 has beaten in it; the beats until then."""
    dist.barrier()
    hooks = Waiting(Path(go) if ranks.rank == 0 else None)
    with process_ledger() as ledger, timed(ledger):
        ledger.settle("compute")
        options = {"stage": "s", "gang": "g", "ranks": ranks, "ledger": ledger}
        beat = Beat(hooks, **options, hang_after_s=0.0)
        with closing(beat):
            while ranks.rank == 1 and not Path(go).exists():
                time.sleep(0.02)
            dist.all_reduce(torch.ones(7))
    if ranks.rank == 0:
        return [event for event in hooks.events if "described" in event]
    return hooks.events


def of_a_stage(ranks: Ranks, *, recipe: str, run_uri: str) -> list[dict[str, Any]]:
    """The beats of this rank while the autoencoder is trained."""
    hooks = Recorded()
    run(job_of(Recipe.model_validate_json(recipe), "autoencoder", run_uri=run_uri), hooks=hooks)
    return [event for event in hooks.events if event["kind"] == "beat"]

"""An ill stage, trained by the ranks of a gang."""

from orchestrator.train.job import StageJob
from orchestrator.train.ranks import Ranks
from orchestrator.train.worker import run
from tests.train.ill import ill, nan_at
from tests.train.workers import Recorded


def train_ill(
    _ranks: Ranks, *, job: str, positions: list[int], rank: int, stop_after: int
) -> tuple[int, list[int]]:
    """Trains a stage (as JSON) of which one rank's losses are NaN at some positions.

    Returns:
        The step at which it stopped, and the positions that its steps read.
    """
    with ill(plus=nan_at(*positions), rank=rank) as read:
        result = run(StageJob.model_validate_json(job), hooks=Recorded(stop_after=stop_after))
    return result.step, read

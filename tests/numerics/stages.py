"""A stage of a recipe, trained by the ranks of a gang as those of a run train it."""

from orchestrator.train.job import StageJob
from orchestrator.train.ranks import Ranks
from orchestrator.train.worker import run
from tests.train.workers import Recorded


def train_stage(_ranks: Ranks, *, job: str) -> str:
    """Trains the stage of a job (as JSON); how it ended."""
    return run(StageJob.model_validate_json(job), hooks=Recorded()).status

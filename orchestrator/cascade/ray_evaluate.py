"""An evaluate stage as one Ray task."""

import json
import threading
from typing import Any

import ray

from orchestrator.cascade.board import BoardHooks
from orchestrator.train.job import StageJob, StageResult

MAX_RETRIES = 2  # workers lost; an error that was raised is not tried again
_POLL_S = 0.25


def score(job: str, board: Any) -> str:
    """Runs in the task; JSON in, JSON out."""
    from orchestrator.train.evaluate import evaluate

    parsed = StageJob.model_validate_json(job)
    hooks = BoardHooks(board, stage=parsed.stage)
    try:
        return json.dumps(evaluate(parsed, hooks=hooks))
    finally:
        hooks.close()


def evaluate_stage(
    job: StageJob, *, board: Any, env: dict[str, str], stop: threading.Event
) -> StageResult:
    """Waits for the task; a stop cancels it, for there is nothing to save in the middle."""
    compute = job.spec.compute
    task = ray.remote(
        num_cpus=compute.cpus_per_worker,
        num_gpus=compute.gpus_per_worker,
        max_retries=MAX_RETRIES,
        retry_exceptions=False,
        runtime_env={"env_vars": env},
    )(score)
    ref = task.remote(job.model_dump_json(), board)
    while not ray.wait([ref], timeout=_POLL_S)[0]:
        if stop.is_set():
            ray.cancel(ref, force=True)
            return StageResult(status="stopped", step=0)
    report = json.loads(ray.get(ref))
    return StageResult(status="done", step=int(report.get("prompts", 0)))

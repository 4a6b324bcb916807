"""Stages that are driven from a Ray task: encoding (Ray Data underneath), evaluation, and training
in one plain process.

The task's own process takes what Ray Data prints, and its imports. What a task holds of Ray's
resources is what it sees: a GPU of its own, or none.
"""

import json
import threading
from typing import Any

import ray

from orchestrator.cascade.board import BoardHooks
from orchestrator.cascade.events import encode_progress, encode_started, gang_started
from orchestrator.cascade.executor import encoded_event
from orchestrator.cascade.ray_train import train_loop
from orchestrator.train.job import StageJob, StageResult

MAX_RETRIES = 2  # processes lost; an error that was raised is not tried again
_POLL_S = 0.25


def run_encode(
    job: StageJob, *, board: Any, env: dict[str, str], stop: threading.Event
) -> StageResult:
    """Encodes what is still to do; a stop keeps the shards that are finished."""
    del stop  # it reaches the task over the board
    task = ray.remote(num_cpus=0, max_retries=MAX_RETRIES, runtime_env={"env_vars": env})(_encode)
    return StageResult.model_validate_json(ray.get(task.remote(job.model_dump_json(), board, env)))


def run_evaluate(
    job: StageJob, *, board: Any, env: dict[str, str], stop: threading.Event
) -> StageResult:
    """Waits for the task; a stop cancels it, for there is nothing to save in the middle."""
    ref = _holding(job, env=env)(_evaluate).remote(job.model_dump_json(), board)
    while not ray.wait([ref], timeout=_POLL_S)[0]:
        if stop.is_set():
            ray.cancel(ref, force=True)
            return StageResult(status="stopped", step=0)
    return StageResult.model_validate_json(ray.get(ref))


def run_plain(
    job: StageJob, *, board: Any, env: dict[str, str], stop: threading.Event, worker: str
) -> StageResult:
    """Trains in the task's own process, with the plain engine.

    A stop reaches it over the board, and a task that has no place yet is called off.
    """
    config = {"job": job.model_dump_json(), "board": board, "worker": worker}
    ref = _holding(job, env=env)(_plain).remote(config)
    while not ray.wait([ref], timeout=_POLL_S)[0]:
        placed: Any = ray.get(board.placed.remote()) if stop.is_set() else None
        if placed is not None and not placed.get(job.stage):
            ray.cancel(ref)
            return StageResult(status="stopped", step=0)
    return StageResult.model_validate_json(ray.get(ref))


def _holding(job: StageJob, *, env: dict[str, str]) -> Any:
    """A task that holds what one worker of a stage needs."""
    compute = job.spec.compute
    return ray.remote(
        num_cpus=compute.cpus_per_worker,
        num_gpus=compute.gpus_per_worker,
        max_retries=MAX_RETRIES,
        runtime_env={"env_vars": env},
    )


def _plain(config: dict[str, Any]) -> str:
    job = StageJob.model_validate_json(config["job"])
    started = json.dumps(gang_started(job.stage, workers=1))
    ray.get(config["board"].exchange.remote(job.stage, [started]))
    ray.get(config["board"].place.remote(job.stage, 1))
    return train_loop(config)


def _evaluate(job_json: str, board: Any) -> str:
    from orchestrator.train.evaluate import evaluate_stage

    job = StageJob.model_validate_json(job_json)
    ray.get(board.place.remote(job.stage, 1))
    hooks = BoardHooks(board, stage=job.stage)
    try:
        return evaluate_stage(job, hooks=hooks).model_dump_json()
    finally:
        hooks.close()


def _encode(job_json: str, board: Any, env: dict[str, str]) -> str:
    from orchestrator.cascade.ray_encode import encode_rows
    from orchestrator.train.encode import finish_encode
    from orchestrator.train.encode_plan import plan_encode

    job = StageJob.model_validate_json(job_json)
    hooks = BoardHooks(board, stage=job.stage)
    try:
        plan = plan_encode(job)
        found, shards, units = plan.found, plan.shards, plan.units
        for event in encode_started(job.stage, found=found, shards=shards, notes=plan.notes):
            hooks.event(event)
        rows = encode_rows(job, units, env=env) if units else iter(())
        for done, _ in enumerate(rows, start=1):
            if done == 1:
                ray.get(board.place.remote(job.stage, job.spec.compute.ranks))
            hooks.event(encode_progress(job.stage, done=done, found=found, shards=shards))
            if hooks.should_stop() and done < len(units):
                return StageResult(status="stopped", step=found + done).model_dump_json()
        hooks.event(encoded_event(job, digest=finish_encode(job, plan)))
        return StageResult(status="done", step=shards).model_dump_json()
    finally:
        hooks.close()

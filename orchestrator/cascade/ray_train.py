"""One training stage as one Ray Train run."""

import importlib
from pathlib import Path
from typing import Any

from orchestrator.cascade.board import BoardHooks
from orchestrator.cascade.explain import explain
from orchestrator.errors import StoppedError
from orchestrator.recipe.stage import Stage
from orchestrator.train.job import StageJob, StageResult

# In a row, from one checkpoint (SinceProgress):
MAX_FAILURES = 3  # gangs lost to machines, networks or memory
MAX_CONTROLLER_FAILURES = 3  # gangs that did not start
MAX_PREEMPTIONS = 100

WORKER = "orchestrator.train.worker:run"


def train_loop(config: dict[str, Any]) -> str:
    """What every rank runs, in a thread of its Ray actor; JSON in, JSON out."""
    module, _, name = config["worker"].partition(":")
    job = StageJob.model_validate_json(config["job"])
    hooks = BoardHooks(config["board"], stage=job.stage)
    try:
        result = getattr(importlib.import_module(module), name)(job, hooks=hooks)
    finally:
        hooks.close()
    return result.model_dump_json()


def train(
    job: StageJob,
    *,
    board: Any,
    scratch: Path,
    log: Path,
    env: dict[str, str],
    private: bool,
    worker: str,
) -> StageResult:
    """Runs the gang to its end; blocks.

    Args:
        job: a training stage.
        board: the actor that carries events.
        scratch: a folder for Ray Train's own bookkeeping.
        log: written if the stage fails for good.
        env: environment of every rank.
        private: this Ray ends with its driver.
        worker: ``module:function`` that every rank runs.

    Raises:
        NoRoomError: if workers found no place.
        RushesError: what the worker raised, or one line with the path of the log.
    """
    from ray.train import FailureConfig, RunConfig

    from orchestrator.cascade.failures import EndAtOnce, SinceProgress
    from orchestrator.cascade.gang_times import TellGangTimes
    from orchestrator.cascade.places import Line, TellPlaces
    from orchestrator.cascade.policies import create_policy
    from orchestrator.cascade.trainer import PrivateStageTrainer, StageTrainer
    from orchestrator.cascade.watch import Watch

    scaling, line = _scaling(job.spec), Line(board, stage=job.stage)
    failures = FailureConfig(
        max_failures=MAX_FAILURES,
        controller_failure_limit=MAX_CONTROLLER_FAILURES,
        max_preemption_failures=MAX_PREEMPTIONS,
    )
    trainer = (PrivateStageTrainer if private else StageTrainer)(
        train_loop,
        train_loop_config={"job": job.model_dump_json(), "board": board, "worker": worker},
        policy=create_policy(scaling, line=line, sizes=job.spec.legal_ranks),
        failures=SinceProgress(failures, line=line),
        scaling_config=scaling,
        run_config=RunConfig(
            name=f"{job.recipe.name}-{job.stage}-{job.attempt}",
            storage_path=str(scratch),
            failure_config=failures,
            # In this order: EndAtOnce raises, and who comes after it is not called.
            callbacks=[  # pyright: ignore[reportArgumentType]
                TellPlaces(line),
                TellGangTimes(line),
                Watch(board, job=job),
                EndAtOnce(),
            ],
            worker_runtime_env={"env_vars": env},
        ),
    )
    try:
        result = trainer.fit()
    except Exception as error:  # whatever Ray or a worker raised: the edge of its world
        known = explain(error, stage=job.stage, log=log)
        if isinstance(known, StoppedError):
            return StageResult(status="stopped", step=0)
        raise known from None
    assert isinstance(result.return_value, str)
    return StageResult.model_validate_json(result.return_value)


def _scaling(stage: Stage) -> Any:
    from ray.train import ScalingConfig

    from orchestrator.cascade.planner import LOOK_S

    compute = stage.compute
    workers = (compute.least_ranks, compute.ranks) if compute.is_elastic else compute.ranks
    resources = {"CPU": float(compute.cpus_per_worker)}
    if compute.gpus_per_worker:
        resources["GPU"] = float(compute.gpus_per_worker)
    return ScalingConfig(
        num_workers=workers,
        elastic_resize_monitor_interval_s=LOOK_S,
        use_gpu=bool(compute.gpus_per_worker),
        resources_per_worker=resources,
    )

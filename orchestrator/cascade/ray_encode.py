"""An encode stage on Ray Data: a pool of actors, one unit of work (a shard) at a time."""

import json
import threading
from typing import Any

from orchestrator.cascade.executor import EventSink, encoded_event
from orchestrator.train.job import StageJob, StageResult


class ShardEncoder:
    """An actor of the pool: loads the networks once, then encodes rows of JSON units."""

    def __init__(self, job: str) -> None:
        from orchestrator.train.encode import Encoder

        self._encode = Encoder(StageJob.model_validate_json(job))

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Encodes one unit; JSON in, JSON out."""
        return {"result": json.dumps(self._encode(json.loads(row["unit"])))}


def encode(
    job: StageJob, *, env: dict[str, str], on_event: EventSink, stop: threading.Event
) -> StageResult:
    """Encodes the shards that are still to do, then commits their index.

    Raises:
        RushesError: what an encoder raised, wrapped by Ray.
    """
    from orchestrator.train.encode import encode_units, finish_encode

    units = encode_units(job)
    rows = _rows(job, units, env=env) if units else iter(())
    for done, _ in enumerate(rows, start=1):
        on_event({"kind": "progress", "stage": job.stage, "step": done, "steps": len(units)})
        if stop.is_set() and done < len(units):
            return StageResult(status="stopped", step=done)
    on_event(encoded_event(job, digest=finish_encode(job)))
    return StageResult(status="done", step=len(units))


def _rows(job: StageJob, units: list[dict[str, Any]], *, env: dict[str, str]) -> Any:
    import ray.data

    compute = job.spec.compute
    ray.data.DataContext.get_current().enable_progress_bars = False
    workers = min(compute.ranks, len(units))
    rows = [{"unit": json.dumps(unit)} for unit in units]
    return (
        ray.data.from_items(rows, override_num_blocks=len(units))
        .map(
            ShardEncoder,  # pyright: ignore[reportArgumentType]
            fn_constructor_kwargs={"job": job.model_dump_json()},
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1),
            num_cpus=compute.cpus_per_worker,
            num_gpus=compute.gpus_per_worker or None,
            runtime_env={"env_vars": env},
        )
        .iter_rows()
    )

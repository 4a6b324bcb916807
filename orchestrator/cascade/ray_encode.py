"""Encoding on Ray Data: a pool of actors, one unit of work (a shard) at a time."""

import json
from collections.abc import Iterator

import ray.data

from orchestrator.train.encode import Encoder
from orchestrator.train.encode_plan import Unit
from orchestrator.train.job import StageJob


class ShardEncoder:
    """An actor of the pool: loads the networks once, then encodes rows of JSON units."""

    def __init__(self, job: str) -> None:
        self._encode = Encoder(StageJob.model_validate_json(job))

    def __call__(self, row: dict[str, str]) -> dict[str, str]:
        """Encodes one unit; JSON in, JSON out."""
        return {"result": json.dumps(self._encode(json.loads(row["unit"])))}


def encode_rows(
    job: StageJob, units: list[Unit], *, env: dict[str, str]
) -> Iterator[dict[str, str]]:
    """Encodes the units; yields as they are finished, in any order."""
    compute = job.spec.compute
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"unit": json.dumps(unit)} for unit in units]
    pool = ray.data.ActorPoolStrategy(
        size=min(compute.ranks, len(units)), max_tasks_in_flight_per_actor=1
    )
    encoded = ray.data.from_items(rows, override_num_blocks=len(units)).map(
        ShardEncoder,  # pyright: ignore[reportArgumentType]
        fn_constructor_kwargs={"job": job.model_dump_json()},
        compute=pool,
        num_cpus=compute.cpus_per_worker,
        num_gpus=compute.gpus_per_worker or None,
        runtime_env={"env_vars": env},
    )
    return iter(encoded.iter_rows())

"""One rank of one training stage, from an empty process to finished weights."""

import tempfile
from contextlib import closing
from pathlib import Path

import torch

from orchestrator.errors import UserError
from orchestrator.storage.store import open_store
from orchestrator.train.engine.blocks import apply_memory_and_speed
from orchestrator.train.engines import build_engines
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob, StageResult
from orchestrator.train.pulse import Pulse, taking_pulse
from orchestrator.train.ranks import Ranks, join
from orchestrator.train.session import Session
from orchestrator.train.sources import open_stream
from orchestrator.train.tasks.build import build_task
from orchestrator.train.token_group import token_group


def run(job: StageJob, *, hooks: Hooks) -> StageResult:
    """Trains a stage to its end, or to a saved stop.

    Called alike by Ray Train, by a plain process and by torchrun; the rank comes from the process
    group or from RANK, WORLD_SIZE and MASTER_*.

    Raises:
        RushesError: one line for the user; the exit code says whose fault it is.
    """
    compute = job.spec.compute
    torch.set_num_threads(compute.cpus_per_worker)
    ranks = join(gpus=compute.gpus_per_worker, sharing=compute.sequence_parallel)
    with taking_pulse(hooks, job=job, ranks=ranks) as pulse:
        return _train(job, ranks=ranks, hooks=hooks, pulse=pulse)


def _train(job: StageJob, *, ranks: Ranks, hooks: Hooks, pulse: Pulse) -> StageResult:
    stage, train = job.spec, job.spec.training
    if not stage.splits_over(ranks.world_size):
        raise UserError(
            f"stages.{stage.id}.train.batch={train.batch} does not split over "
            f"{ranks.world_size} ranks of micro_batch={train.micro_batch}"
            + (f" with sequence_parallel={ranks.sharing}" if ranks.sharing > 1 else "")
        )
    store = open_store(job.run)
    group = token_group(ranks)
    task = build_task(job.recipe, stage, store=store, device=ranks.device, group=group)
    apply_memory_and_speed(task.blocks(), checkpointing=train.checkpointing, compile=train.compile)
    engines = build_engines(
        stage,
        task,
        ranks=ranks,
        kind="plain" if stage.compute.workers == 0 else "deepspeed",
        zero=stage.compute.zero,
    )
    with (
        tempfile.TemporaryDirectory(prefix="rushes-") as scratch,
        closing(open_stream(job, ranks=ranks)) as stream,
    ):
        return Session(
            job=job,
            ranks=ranks,
            store=store,
            task=task,
            engines=engines,
            stream=stream,
            scratch=Path(scratch),
            hooks=hooks,
            pulse=pulse,
        ).run()

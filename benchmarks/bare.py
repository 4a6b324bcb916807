"""The bare loop of overhead.py: one rank, the stage's own task and engine, and nothing else.

Run by overhead.py as ``python benchmarks/bare.py JOB.json OUT.json``; no Ray, stream, log, tracker,
checkpoint or look for a stop. The batches are those of the full stack, read before the first step,
at which the process stops itself until it is let run.
"""

import argparse
import json
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import torch

from orchestrator.data.batch import StepBatch
from orchestrator.storage.store import open_store
from orchestrator.train.engines import build_engines
from orchestrator.train.job import StageJob
from orchestrator.train.randomness import SlotRandom, happens_at
from orchestrator.train.ranks import Ranks, join
from orchestrator.train.schedule import learning_rate
from orchestrator.train.sources import open_stream
from orchestrator.train.tasks.base import Micro
from orchestrator.train.tasks.build import build_task


def train(job: StageJob) -> dict[str, float]:
    """Trains a stage; returns its parameter count and when every logged step ended.

    Returns:
        ``{"parameters": count, STEP: seconds since the epoch, ...}``, for multiples of log_every.
    """
    stage, settings = job.spec, job.spec.training
    torch.set_num_threads(stage.compute.cpus_per_worker)
    ranks = join(gpus=stage.compute.gpus_per_worker)
    task = build_task(job.recipe, stage, store=open_store(job.run), device=ranks.device)
    engines = build_engines(stage, task, ranks=ranks, kind="deepspeed", zero=stage.compute.zero)
    batches = _read_all(job, ranks=ranks)
    ranks.barrier()
    signal.raise_signal(signal.SIGSTOP)
    ends = {"parameters": float(sum(engine.num_params for engine in engines.values()))}
    for step, batch in enumerate(batches):
        for micro in _micros(job, batch):
            for name, engine in engines.items():
                engine.backward(task.loss(name, engines, micro).value)
        lr = learning_rate(step, optim=settings.optim, steps=settings.steps)
        for engine in engines.values():
            engine.step(lr=lr)
        if (step + 1) % settings.log_every == 0:
            ends[str(step + 1)] = time.time()
    ranks.barrier()
    return ends


def _read_all(job: StageJob, *, ranks: Ranks) -> list[StepBatch]:
    with closing(open_stream(job, ranks=ranks)) as stream:
        return [stream.read_step(step) for step in range(job.spec.training.steps)]


def _micros(job: StageJob, batch: StepBatch) -> list[Micro]:
    settings = job.spec.training
    size = settings.micro_batch
    return [
        Micro(
            samples=batch.samples[first : first + size],
            captions=batch.captions[first : first + size],
            fps=batch.fps[first : first + size],
            packed=batch.packed[first : first + size],
            random=SlotRandom(
                batch.plan.slots[first : first + size],
                seed=job.recipe.seed,
                stage=job.stage,
                step=batch.plan.step,
            ),
            step=batch.plan.step,
            images=happens_at(batch.plan.step, share=settings.image_share),
        )
        for first in range(0, len(batch.plan.slots), size)
    ]


def main() -> None:
    """Trains and writes the times."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    job = StageJob.model_validate_json(args.job.read_text())
    # In a thread, as a Ray Train worker does: the same allocator arena, the same caches.
    with ThreadPoolExecutor(max_workers=1) as thread:
        ends = thread.submit(train, job).result()
    args.out.write_text(json.dumps(ends))


if __name__ == "__main__":
    main()

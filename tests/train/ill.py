"""A tiny stage whose losses go wrong at set places in the order of data."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from orchestrator.data.batch import StepBatch
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.job import StageJob
from orchestrator.train.loop import Loop
from orchestrator.train.tasks.autoencoder import AUTOENCODER, AutoencoderTask
from orchestrator.train.tasks.base import Loss, Micro
from tests.tiny import tiny_tree
from tests.train.curves import logged
from tests.train.workers import job_of

TOLD = ("rewinds", "ranks")  # what a run has gone through


def ill_job(
    folder: Path,
    *,
    run_name: str,
    steps: int = 10,
    save: Mapping[str, int] | None = None,
    workers: int = 0,
    zero: int = 1,
    **health: Any,
) -> StageJob:
    """The tiny autoencoder, saved every second step."""
    tree = tiny_tree(folder, workers=workers, zero=zero)
    tree["stages"][0]["train"] |= {"steps": steps, "health": health}
    tree["stages"][0]["save"] = {"every_steps": 2, "keep": 3, **(save or {})}
    recipe = parse_recipe(tree, origin="tiny")
    return job_of(recipe, "autoencoder", run_uri=f"{folder}/{run_name}")


@contextmanager
def ill(
    *,
    times: Mapping[int, float] | None = None,
    plus: Mapping[int, float] | None = None,
    logged: Mapping[int, float] | None = None,
    rank: int = 0,
) -> Iterator[list[int]]:
    """Within it a rank's losses at these positions are multiplied, added to, or logged too high.

    Yields:
        The positions that steps read, in order.
    """
    read: list[int] = []
    micros, loss_of = Loop._micros, AutoencoderTask.loss

    def noted(self: Loop, batch: StepBatch, *, step: int) -> Iterator[Micro]:
        read.append(batch.plan.position)
        yield from micros(self, batch, step=step)

    def wrong(
        self: AutoencoderTask, network: str, engines: Mapping[str, Any], micro: Micro
    ) -> Loss:
        loss = loss_of(self, network, engines, micro)
        if network != AUTOENCODER or dist.get_rank() != rank:
            return loss
        at = read[-1]
        value = loss.value * (times or {}).get(at, 1.0) + (plus or {}).get(at, 0.0)
        stats = dict(loss.stats)
        stats["loss"] = stats["loss"] * (logged or {}).get(at, 1.0)
        return replace(loss, value=value, stats=stats)

    with (
        mock.patch.object(Loop, "_micros", noted),
        mock.patch.object(AutoencoderTask, "loss", wrong),
    ):
        yield read


def leave_out(job: StageJob, positions: list[int], *, rewinds: int) -> None:
    """Begins the stage as after a rewind to its beginning."""
    folder = Path(job.run) / job.folder
    folder.mkdir(parents=True)
    (folder / "health.json").write_text(json.dumps({"rewinds": rewinds, "left_out": positions}))


def curve(job: StageJob) -> list[dict[str, Any]]:
    """All that a stage logged but what was measured, and how often it had gone back."""
    return logged(Path(job.run) / job.folder / "metrics.jsonl", without=TOLD)


def weights(job: StageJob) -> bytes:
    """The finished weights."""
    return (Path(job.run) / job.folder / "weights" / "ema.safetensors").read_bytes()


def evidence(job: StageJob) -> list[dict[str, Any]]:
    """The rows of health.jsonl."""
    path = Path(job.run) / job.folder / "health.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def checkpoints(job: StageJob, marker: str) -> list[int]:
    """Steps of the checkpoints that hold a file."""
    found = (Path(job.run) / job.folder / "checkpoints").glob(f"*/{marker}")
    return sorted(int(path.parent.name.removeprefix("step-")) for path in found)


def nan_at(*positions: int) -> dict[int, float]:
    """For ``ill``."""
    return dict.fromkeys(positions, torch.nan)

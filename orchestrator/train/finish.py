"""The end of a training stage: latent statistics, EMA weights, their registration."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from models.sora.autoencoder import VideoAutoencoder
from models.sora.latents import LatentStatistics
from orchestrator.recipe.digest import canonical
from orchestrator.storage.store import Store, join_uri
from orchestrator.train.engine.base import Engine
from orchestrator.train.job import StageJob
from orchestrator.train.pixels import as_pixels
from orchestrator.train.ranks import Ranks
from orchestrator.train.sources import open_stream
from orchestrator.train.tasks.base import Task
from orchestrator.train.weights import CONFIG, WEIGHTS

STATISTICS_CLIPS = 512  # enough for per-channel mean and deviation to three digits


def finish(
    job: StageJob,
    *,
    store: Store,
    ranks: Ranks,
    task: Task,
    engines: Mapping[str, Engine],
    event: Callable[[dict[str, Any]], None],
    before_writing: Callable[[], None],
) -> None:
    """Writes the first network's EMA weights and config; every rank must call it.

    Args:
        job: the stage.
        store: where the run is.
        ranks: this process and its peers.
        task: what was trained.
        engines: around its networks.
        event: told of the finished model.
        before_writing: called on every rank once all is gathered; raises if it may not be written.
    """
    name, network = next(iter(task.networks.items()))
    if isinstance(network, VideoAutoencoder):
        _measure_latents(network, job=job, engine=engines[name], ranks=ranks)
    tensors = engines[name].gather_ema()
    before_writing()
    if ranks.rank == 0:
        buffers = {key: value.detach().cpu().float() for key, value in _buffers(network).items()}
        raw = save({key: value.contiguous() for key, value in {**tensors, **buffers}.items()})
        store.put(f"{job.folder}/{WEIGHTS}", raw)
        store.put(f"{job.folder}/{CONFIG}", canonical(task.config()).encode())
        event(
            {
                "kind": "model",
                "stage": job.stage,
                "name": f"{job.recipe.name}-{job.stage}",
                "uri": join_uri(job.run, job.folder, "weights"),
                "sha256": hashlib.sha256(raw).hexdigest(),
            }
        )
    ranks.barrier()


def _buffers(network: torch.nn.Module) -> dict[str, Tensor]:
    parameters = {name for name, _ in network.named_parameters()}
    return {name: value for name, value in network.state_dict().items() if name not in parameters}


def _measure_latents(
    network: VideoAutoencoder, *, job: StageJob, engine: Engine, ranks: Ranks
) -> None:
    """Per-channel mean and deviation of the EMA model's latents over the first clips."""
    train, module = job.spec.training, engine.module
    assert isinstance(module, VideoAutoencoder)
    statistics = LatentStatistics(network.latent_mean.numel())
    stream = open_stream(job, ranks=ranks)
    with torch.no_grad(), engine.ema_weights():
        for _ in range(max(1, STATISTICS_CLIPS // train.batch)):
            batch = stream.next()
            size = train.micro_batch * (batch.plan.size // train.batch)
            for first in range(0, len(batch.samples), size):
                samples = tuple(batch.samples[first : first + size])
                x = as_pixels(samples, frames=None, device=ranks.device)
                statistics.update(module.encode(x).mean.float())
    stream.close()
    mean, std = statistics.finish(total=ranks.total)
    network.latent_mean.copy_(mean)
    network.latent_std.copy_(std)

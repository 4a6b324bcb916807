"""The encode stage: training clips to latents (and frozen text states), shard by shard.

A shard is the unit of work: one process encodes it whole, and one that is there already is not
encoded again, whichever run has encoded it.
"""

from typing import Any

import torch

from models.sora.autoencoder import VideoAutoencoder
from models.text.encoder import TextEncoder
from models.text.states import EMPTY_CAPTION
from orchestrator.data.decode import npy_bytes
from orchestrator.data.head import IF_LOST
from orchestrator.data.index import Bucket, Index, Sample, write_index
from orchestrator.data.parallel import in_threads
from orchestrator.data.reader import Reader
from orchestrator.data.shards import (
    NewSample,
    is_written,
    read_written,
    write_shared_shard,
)
from orchestrator.recipe.data import TRAIN
from orchestrator.recipe.digest import canonical, sha256
from orchestrator.storage.store import open_store
from orchestrator.storage.uri import relative_to
from orchestrator.train.encode_plan import EncodePlan, PartPlan, Unit
from orchestrator.train.encoders import load_text
from orchestrator.train.job import StageJob
from orchestrator.train.latents import latents_uri
from orchestrator.train.pipeline import load_autoencoder
from orchestrator.train.pixels import as_pixels
from orchestrator.train.text_states import TextTable, encode_captions, preview_prompts


class Encoder:
    """Encodes shards with networks that are loaded once."""

    def __init__(self, job: StageJob) -> None:
        spec = job.spec.encode
        assert spec is not None
        data = job.recipe.data
        self._batch = spec.batch
        self._indexes = {name: Index.open(source.uri) for name, source in data.parts(TRAIN).items()}
        self._readers = {
            name: Reader(
                index, cache_dir=data.cache_dir, cache_bytes=data.cache_bytes, memory_bytes=0
            )
            for name, index in self._indexes.items()
        }
        self._device = torch.device("cuda" if job.spec.compute.gpus_per_worker else "cpu")
        torch.set_num_threads(job.spec.compute.cpus_per_worker)
        self._autoencoder = load_autoencoder(
            open_store(job.run), job.recipe, stage=spec.autoencoder, device=self._device
        )
        self._text = _frozen_text(job, device=self._device)

    def __call__(self, unit: Unit) -> dict[str, Any]:
        """Encodes one shard and writes it, unless another run just has.

        Returns:
            ``{"shard", "clips"}``: its name, and how many clips were encoded.
        """
        part, shard, target = unit["part"], unit["shard"], open_store(unit["target"])
        if is_written(target, shard):
            return {"shard": shard, "clips": 0}
        buckets: dict[Bucket, list[int]] = {}
        index = self._indexes[part]
        for row, sample in zip(index.rows_of(shard), index.of_shard(shard), strict=True):
            buckets.setdefault(sample.bucket, []).append(row)
        new: list[NewSample] = []
        for rows in buckets.values():
            for first in range(0, len(rows), self._batch):
                new += self._encode(part, rows[first : first + self._batch])
        write_shared_shard(target, shard, new)
        return {"shard": shard, "clips": len(new)}

    def _encode(self, part: str, rows: list[int]) -> list[NewSample]:
        reader = self._readers[part]
        samples, arrays = zip(*(reader.read(row) for row in rows), strict=True)
        with torch.inference_mode():
            x_B3THW = as_pixels(arrays, frames=None, device=self._device)
            z_BCTHW = _latents(self._autoencoder, x_B3THW).cpu().numpy()
        return [
            NewSample(
                key=sample.key,
                members={"latent.npy": npy_bytes(z_CTHW), **self._states(sample)},
                bucket=sample.bucket,
                fps=sample.fps,
                source="latents",
                captions=sample.captions,
                labels=sample.labels,
                original=sample.original,
                start_s=sample.start_s,
                end_s=_end_s(sample),
            )
            for sample, z_CTHW in zip(samples, z_BCTHW, strict=True)
        ]

    def _states(self, sample: Sample) -> dict[str, bytes]:
        if self._text is None:
            return {}
        packed = encode_captions(self._text, sample.captions, device=self._device)
        return {f"text{number}.npy": npy_bytes(rows) for number, rows in enumerate(packed)}


def _end_s(sample: Sample) -> float | None:
    """Seconds in the original; of a longer clip the first window is encoded."""
    if sample.start_s is None or not sample.is_windowed:
        return sample.end_s
    return sample.start_s + sample.bucket[0] / sample.fps


def finish_encode(job: StageJob, plan: EncodePlan) -> str:
    """Writes the run's index of the encoded shards, in the clips' order, of a mix one each.

    Returns:
        The index's digest, of a mix one of all of them.
    """
    text = _frozen_text(job, device=torch.device("cpu"))
    if text is not None:
        prompts = preview_prompts(job.recipe, encode=job.stage)
        empty, *shown = encode_captions(text, (EMPTY_CAPTION, *prompts), device=torch.device("cpu"))
        table = TextTable(
            empty_LD=empty,
            max_tokens=text.max_length,
            prompts=dict(zip(prompts, shown, strict=True)),
        )
        table.write(open_store(job.run), folder=job.folder)
    digests = {part.name: _write_index(job, part) for part in plan.parts}
    return digests.get("") or sha256(canonical(digests))


def _write_index(job: StageJob, part: PartPlan) -> str:
    source = Index.open(job.recipe.data.parts(TRAIN)[part.name].uri)
    own = open_store(latents_uri(job.run, stage=job.stage, part=part.name))
    target = open_store(part.target)
    return write_index(
        own,
        in_threads(lambda shard: read_written(target, shard), part.shards),
        origin={
            "stage": job.stage,
            "clips": source.digest,
            "key": part.key,
            IF_LOST: f"rushes train encodes what is lost of stage {job.stage} again",
        },
        # Runs may be moved together with what is encoded.
        base=None if target.uri == own.uri else relative_to(target.uri, folder=own.uri),
    )


def _latents(autoencoder: VideoAutoencoder, x_B3THW: torch.Tensor) -> torch.Tensor:
    """Normalised posterior means, float32: the latents that a denoiser trains on."""
    return autoencoder.normalise(autoencoder.encode_chunked(x_B3THW).mean).float()


def _frozen_text(job: StageJob, *, device: torch.device) -> TextEncoder | None:
    if job.recipe.text.kind == "byt5":
        return None
    return load_text(job.recipe.text).to(device)

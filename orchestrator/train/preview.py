"""Clips sampled while a denoiser trains, from its EMA weights, on all ranks."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from models.cascade.link import Request
from models.cascade.model import CaptionedUNet
from models.sora.autoencoder import VideoAutoencoder
from models.sora.model import TextToVideo
from models.text.encoder import TextEncoder
from orchestrator.storage.store import Store, join_uri
from orchestrator.train.cascades import link_of
from orchestrator.train.encoders import load_text
from orchestrator.train.engine.base import Engine
from orchestrator.train.job import StageJob
from orchestrator.train.pipeline import assemble, load_autoencoder
from orchestrator.train.pixels import to_uint8
from orchestrator.train.randomness import seed_of
from orchestrator.train.ranks import Ranks
from orchestrator.train.tasks.diffusion import DENOISER
from orchestrator.train.video import sheet


class Preview:
    """Samples the recipe's prompts every so many steps; silent if it names none.

    Every rank samples every prompt: under ZeRO-3 the forward passes are collective, and a handful
    of clips is cheaper than a second layout of the weights.
    """

    def __init__(
        self,
        job: StageJob,
        *,
        store: Store,
        ranks: Ranks,
        event: Callable[[dict[str, Any]], None],
    ) -> None:
        self._job = job
        self._train = job.spec.training
        self._store = store
        self._ranks = ranks
        self._event = event

    def is_due(self, step: int) -> bool:
        """Whether clips are sampled after this step."""
        preview = self._train.preview
        if preview is None or not preview.prompts:
            return False
        return step % preview.every_steps == 0 or step == self._train.steps

    def sample(self, engines: Mapping[str, Engine], *, step: int) -> None:
        """Samples, writes a sheet of clips to the run's folder and says where."""
        preview = self._train.preview
        assert preview is not None
        engine = engines[DENOISER]
        with torch.no_grad(), engine.ema_weights():
            video = self._sampled(engine.module, preview.prompts)
        if self._ranks.rank == 0:
            self._publish(to_uint8(video), step=step)
        self._ranks.barrier()

    def _sampled(self, model: nn.Module, prompts: Sequence[str]) -> Tensor:
        seeds = [seed_of(self._job.recipe.seed, "preview", i) for i in range(len(prompts))]
        if isinstance(model, CaptionedUNet):
            link = link_of(self._job.recipe, self._job.spec, model=model, text=self._frozen_text)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            return link.sample(Request(prompts=prompts, generators=generators))
        assert isinstance(model, TextToVideo)
        chain = assemble(
            self._train, model=model, autoencoder=self._autoencoder, text=self._frozen_text
        )
        return chain.sample(
            prompts,
            frames=self._train.clip.frames,
            size=self._train.clip.size,
            sampler=self._train.sampler,
            seeds=seeds,
        )

    @cached_property
    def _autoencoder(self) -> VideoAutoencoder:
        recipe = self._job.recipe
        source = recipe.autoencoder_of(self._job.spec)
        return load_autoencoder(self._store, recipe, stage=source.id, device=self._ranks.device)

    @cached_property
    def _frozen_text(self) -> TextEncoder | None:
        recipe = self._job.recipe
        if recipe.text.kind == "byt5":
            return None
        return load_text(recipe.text).to(self._ranks.device)

    def _publish(self, videos: Any, *, step: int) -> None:
        preview = self._train.preview
        assert preview is not None
        stem = f"{self._job.folder}/samples/step-{step:08d}"
        files = sheet(list(videos), captions=preview.prompts, fps=self._train.clip.fps)
        for kind, content in files.items():
            self._store.put(f"{stem}.{kind}", content)
        head = {"stage": self._job.stage}
        for kind in ("gif", "mp4"):
            uri = join_uri(self._job.run, f"{stem}.{kind}")
            self._event(head | {"kind": "artifact", "uri": uri, "folder": "samples"})
        still = join_uri(self._job.run, f"{stem}.png")
        self._event(head | {"kind": "still", "key": "samples", "step": step, "uri": still})

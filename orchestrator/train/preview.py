"""Clips sampled while a denoiser trains, from its EMA weights, on all ranks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.cascade.link import Request
from models.cascade.model import CaptionedUNet
from models.sora.autoencoder import VideoAutoencoder
from models.sora.model import TextToVideo
from models.text.encoder import TextEncoder
from orchestrator.errors import UnavailableError
from orchestrator.storage.store import Store, join_uri
from orchestrator.train.cascades import link_of
from orchestrator.train.encoders import load_text
from orchestrator.train.engine.base import Engine
from orchestrator.train.exchange import broadcast_arrays
from orchestrator.train.job import StageJob
from orchestrator.train.pipeline import assemble, load_autoencoder
from orchestrator.train.pixels import to_uint8
from orchestrator.train.randomness import seed_of
from orchestrator.train.ranks import Ranks
from orchestrator.train.sheets import sheet
from orchestrator.train.tasks.diffusion import DENOISER
from orchestrator.train.text_states import StoredText, TextTable, encode_captions

# For the values of one forward pass. Not what is free, which differs between ranks: under ZeRO-3
# all of them have to make the same calls.
_MOST_BYTES = 16 * 2**30


class Preview:
    """Samples the recipe's prompts every so many steps; silent if it names none.

    Every rank samples every prompt: under ZeRO-3 the forward passes are collective, and a handful
    of clips is cheaper than a second layout of the weights.

    Args:
        job: the stage that trains.
        store: the run's folder.
        ranks: the gang.
        event: takes what is to be shown.
        text: the frozen text encoder that the stage trains with; None for latents, whose encode
            stage has stored what it says, and for an encoder that is trained along.
    """

    def __init__(
        self,
        job: StageJob,
        *,
        store: Store,
        ranks: Ranks,
        event: Callable[[dict[str, Any]], None],
        text: TextEncoder | None,
    ) -> None:
        self._job = job
        self._train = job.spec.training
        self._store = store
        self._ranks = ranks
        self._event = event
        self._text = text

    def is_due(self, step: int) -> bool:
        """Whether clips are sampled after this step."""
        preview = self._train.preview
        if preview is None or not preview.prompts:
            return False
        return step % preview.every_steps == 0 or step == self._train.steps

    def sample(self, engines: Mapping[str, Engine], *, step: int) -> None:
        """Samples, writes a sheet of clips to the run's folder and says where.

        A store that is away costs the sheet, and a note.
        """
        preview = self._train.preview
        assert preview is not None
        engine = engines[DENOISER]
        with torch.no_grad(), engine.ema_weights():
            engine.module.eval()
            video = self._sampled(engine.module, preview.prompts)
            engine.module.train()
        if self._ranks.rank == 0:
            try:
                self._publish(to_uint8(video), step=step)
            except UnavailableError as error:
                text = f"{error}; the samples of step {step} are lost, training goes on"
                self._event({"kind": "note", "stage": self._job.stage, "text": text})
        self._ranks.barrier()

    def _sampled(self, model: nn.Module, prompts: Sequence[str]) -> Tensor:
        seeds = [seed_of(self._job.recipe.seed, "preview", i) for i in range(len(prompts))]
        if isinstance(model, CaptionedUNet):
            link = link_of(self._job.recipe, self._job.spec, model=model, text=self._text)
            link = replace(link, most_bytes=_MOST_BYTES)
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            return link.sample(Request(prompts=prompts, generators=generators))
        assert isinstance(model, TextToVideo)
        chain = assemble(
            self._train, model=model, autoencoder=self._autoencoder, text=self._stored_text
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
    def _stored_text(self) -> StoredText | None:
        """What the frozen encoder says to the prompts; the encoder itself is not kept."""
        preview, recipe = self._train.preview, self._job.recipe
        assert preview is not None
        if recipe.text.kind == "byt5":
            return None
        table = TextTable.read(self._store, folder=f"stages/{self._job.spec.latents}")
        known = table.captions()
        missing = [prompt for prompt in dict.fromkeys(preview.prompts) if prompt not in known]
        if missing:  # the recipe's prompts have changed since the encode stage was done
            known |= zip(missing, self._encoded(missing), strict=True)
        return StoredText(known)

    def _encoded(self, prompts: Sequence[str]) -> list[np.ndarray]:
        """States of prompts, encoded by rank 0 on its CPU: its device is full of the network."""
        encoded: list[np.ndarray] = []
        if self._ranks.rank == 0:
            text = load_text(self._job.recipe.text)
            encoded = encode_captions(text, prompts, device=torch.device("cpu"))
        return broadcast_arrays(encoded, device=self._ranks.device)

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

"""Prompts to finished clips from a run's weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.cascade.chain import Cascade
from models.cascade.varied import VariedCascade
from models.sora.sample import SoraChain
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.storage.store import Store
from orchestrator.train.cascades import load_cascade
from orchestrator.train.pipeline import load_chain
from orchestrator.train.pixels import to_uint8
from orchestrator.train.randomness import seed_of
from orchestrator.train.start import seen_frames

Videos = np.ndarray  # uint8 frames [B, T, H, W, 3]


@dataclass(frozen=True)
class Sampler:
    """All networks between a prompt and a clip.

    Attributes:
        networks: ids of the stages whose clips are made, in order; the last one's is the result.
        pace: frames per second over those of the stage.
    """

    chain: SoraChain | Cascade | VariedCascade
    networks: tuple[str, ...]
    stage: Stage
    pace: float = 1.0

    @property
    def fps(self) -> float:
        """Frames per second of the result."""
        return self.stage.training.clip.fps * self.pace

    def sample(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        batch: int,
        start: Tensor | None = None,
        on_clips: Callable[[int], None] = lambda _: None,
    ) -> dict[str, Videos]:
        """One clip per prompt.

        Args:
            prompts: one per clip.
            seed: prompt i is sampled from noise of (seed, i), whatever the batch.
            batch: clips sampled at once.
            start: frames that every clip starts from, [1, 3, T, H, W], pixels in [-1, 1]: they
                stay as they are, and the network goes on from the last of them.
            on_clips: told how many clips are finished.

        Returns:
            uint8 frames [B, T, H, W, 3] by stage, in sampling order.
        """
        parts: dict[str, list[Videos]] = {name: [] for name in self.networks}
        for first in range(0, len(prompts), batch):
            some = list(prompts[first : first + batch])
            seeds = [seed_of(seed, first + index) for index in range(len(some))]
            with torch.inference_mode():
                clips = self._clips(some, seeds, start)
            for name, clip in zip(self.networks, clips, strict=True):
                parts[name].append(to_uint8(clip))
            on_clips(first + len(some))
        return {name: np.concatenate(part) for name, part in parts.items()}

    def _clips(
        self, prompts: Sequence[str], seeds: Sequence[int], start: Tensor | None
    ) -> list[Tensor]:
        if isinstance(self.chain, Cascade | VariedCascade):
            assert start is None
            return self.chain.sample(prompts, seeds=seeds)
        train = self.stage.training
        frames = train.clip.frames
        if start is not None:
            time_factor = self.chain.autoencoder.config.time_factor
            video_B3THW = start.expand(len(prompts), -1, -1, -1, -1)
            given = seen_frames(start.shape[2], frames=frames, time_factor=time_factor)
            return [
                self.chain.extend(
                    video_B3THW,
                    prompts,
                    given=given,
                    frames=frames,
                    sampler=train.sampler,
                    seeds=seeds,
                )
            ]
        return [
            self.chain.sample(
                prompts, frames=frames, size=train.clip.size, sampler=train.sampler, seeds=seeds
            )
        ]


def load_sampler(
    store: Store, recipe: Recipe, *, stage: str, distilled: bool, device: torch.device
) -> Sampler:
    """Everything between a prompt and the clips of a stage, from a finished run.

    Raises:
        UserError: if a stage has not finished.
    """
    spec = recipe.stage(stage)
    if spec.latents is not None:
        chain = load_chain(store, recipe, stage=stage, device=device)
        return Sampler(chain=chain, networks=(stage,), stage=spec)
    cascade = load_cascade(store, recipe, last=stage, distilled=distilled, device=device)
    links = recipe.chain(stage, distilled=distilled)
    return Sampler(chain=cascade, networks=tuple(link.id for link in links), stage=links[-1])

"""Prompts to finished clips from a run's weights."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.cascade.chain import Cascade
from models.cascade.link import Link
from models.cascade.varied import VariedCascade
from models.nn.sequence import TokenGroup
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
        rates: frames per second of the clips of each.
    """

    chain: SoraChain | Cascade | VariedCascade
    networks: tuple[str, ...]
    stage: Stage
    rates: tuple[float, ...]

    @property
    def fps(self) -> float:
        """Frames per second of the result."""
        return self.rates[-1]

    def sample(
        self,
        prompts: Sequence[str],
        *,
        seed: int,
        batch: int,
        on_clips: Callable[[int], None] = lambda _: None,
    ) -> dict[str, Videos]:
        """All that ``batches`` gives, in one.

        Args:
            prompts: one per clip.
            seed: see ``batches``.
            batch: clips sampled at once.
            on_clips: told how many clips are finished.
        """
        parts: dict[str, list[Videos]] = {name: [] for name in self.networks}
        done = 0
        for made in self.batches(prompts, seed=seed, batch=batch):
            for name, clips in made.items():
                parts[name].append(clips)
            done += len(made[self.networks[-1]])
            on_clips(done)
        return {name: np.concatenate(part) for name, part in parts.items()}

    def batches(
        self, prompts: Sequence[str], *, seed: int, batch: int, start: Tensor | None = None
    ) -> Iterator[dict[str, Videos]]:
        """One clip per prompt, as each batch is done.

        Args:
            prompts: one per clip.
            seed: prompt i is sampled from noise of (seed, i), whatever the batch.
            batch: clips sampled at once.
            start: frames that every clip starts from, [1, 3, T, H, W], pixels in [-1, 1]: they
                stay as they are, and the network goes on from the last of them.

        Yields:
            uint8 frames [B, T, H, W, 3] by stage, in sampling order.
        """
        for first in range(0, len(prompts), batch):
            some = list(prompts[first : first + batch])
            seeds = [seed_of(seed, first + index) for index in range(len(some))]
            with torch.inference_mode():
                clips = self._clips(some, seeds, start)
            yield {name: to_uint8(clip) for name, clip in zip(self.networks, clips, strict=True)}

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
    store: Store,
    recipe: Recipe,
    *,
    stage: str,
    distilled: bool,
    device: torch.device,
    group: TokenGroup | None = None,
) -> Sampler:
    """Everything between a prompt and the clips of a stage, from a finished run.

    Args:
        store: the run's folder.
        recipe: the run's recipe.
        stage: whose clips are wanted.
        distilled: takes the last student of each network of a cascade.
        device: where to sample.
        group: the ranks that share the tokens of a diffusion transformer, if any do: each of them
            makes all clips, with the others.

    Raises:
        UserError: if a stage has not finished.
    """
    spec = recipe.stage(stage)
    if spec.latents is not None:
        chain = load_chain(store, recipe, stage=stage, device=device)
        if group is not None:
            chain.dit.share_tokens(group)
        rates = (spec.training.clip.fps,)
        return Sampler(chain=chain, networks=(stage,), stage=spec, rates=rates)
    assert group is None
    cascade = load_cascade(store, recipe, last=stage, distilled=distilled, device=device)
    links = recipe.chain(stage, distilled=distilled)
    return Sampler(
        chain=cascade,
        networks=tuple(link.id for link in links),
        stage=links[-1],
        rates=_rates(cascade.links),
    )


def _rates(links: Sequence[Link]) -> tuple[float, ...]:
    """Frames per second of each network's clips: enlarging frames leaves their number as it is."""
    rates: list[float] = []
    for link in links:
        rates.append(rates[-1] if rates and link.step == "space" else link.fps)
    return tuple(rates)

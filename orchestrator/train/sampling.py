"""Prompts to finished clips from a run's weights."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from models.sora.sample import SoraChain
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.train import Train
from orchestrator.train.pixels import to_uint8
from orchestrator.train.randomness import seed_of


def sample_clips(
    chain: SoraChain,
    prompts: Sequence[str],
    *,
    train: Train,
    seed: int,
    batch: int,
    on_clips: Callable[[int], None] = lambda _: None,
) -> np.ndarray:
    """Samples one clip per prompt.

    Args:
        chain: finished networks.
        prompts: one per clip.
        train: the denoiser's stage: its clip geometry and its sampler.
        seed: prompt i is sampled from noise of (seed, i), whatever the batch.
        batch: clips sampled at once.
        on_clips: told how many clips are finished.

    Returns:
        uint8 frames [B, T, H, W, 3].
    """
    done: list[np.ndarray] = []
    for first in range(0, len(prompts), batch):
        part = list(prompts[first : first + batch])
        with torch.inference_mode():
            video = chain.sample(
                part,
                frames=train.clip.frames,
                size=train.clip.size,
                sampler=train.sampler,
                seeds=[seed_of(seed, first + index) for index in range(len(part))],
            )
        done.append(to_uint8(video))
        on_clips(first + len(part))
    return np.concatenate(done)


def denoiser_stage(recipe: Recipe) -> str:
    """Id of the stage whose samples are the run's result: the last latent-space one."""
    ids = [stage.id for stage in recipe.stages if stage.latents is not None]
    if not ids:
        raise ValueError(f"recipe {recipe.name} trains no denoiser, so there is nothing to sample")
    return ids[-1]

"""The task of a stage: one arm per family of networks."""

import torch

from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit_config import DiTConfig
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.storage.store import Store
from orchestrator.train.randomness import seed_of
from orchestrator.train.tasks.autoencoder import AutoencoderTask
from orchestrator.train.tasks.base import Task
from orchestrator.train.tasks.diffusion import DiffusionTask
from orchestrator.train.text_states import TextTable


def build_task(recipe: Recipe, stage: Stage, *, store: Store, device: torch.device) -> Task:
    """Networks with their initial weights, the same on every rank."""
    with torch.random.fork_rng(devices=[]):
        # Initialisers of torch.nn know only the global generator.
        torch.manual_seed(seed_of(recipe.seed, stage.id, "init"))
        match stage.training.model:
            case AutoencoderConfig():
                return AutoencoderTask(stage.training, device=device)
            case DiTConfig():
                return DiffusionTask(
                    recipe, stage, device=device, frozen=_frozen_text(recipe, stage, store=store)
                )


def _frozen_text(recipe: Recipe, stage: Stage, *, store: Store) -> TextTable | None:
    if recipe.text.kind == "byt5":
        return None
    return TextTable.read(store, folder=f"stages/{stage.latents}")

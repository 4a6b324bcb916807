"""The task of a stage: one arm per family of networks."""

import torch

from models.diffusion.objective import build_objective
from models.make_a_video.prior_config import PriorConfig
from models.nn.sequence import TokenGroup
from models.nn.unet_config import UNetConfig
from models.sora.autoencoder_config import AutoencoderConfig
from models.sora.dit_config import DiTConfig
from models.text.pair_config import SmallPairConfig
from orchestrator.errors import UserError
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.storage.store import Store
from orchestrator.train.pipeline import load_pair
from orchestrator.train.randomness import seed_of
from orchestrator.train.tasks.autoencoder import AutoencoderTask
from orchestrator.train.tasks.base import Task
from orchestrator.train.tasks.diffusion import DiffusionTask
from orchestrator.train.tasks.pair import PairTask
from orchestrator.train.tasks.pixels import PixelTask, build_frozen_text, load_unet
from orchestrator.train.tasks.prior import PriorTask
from orchestrator.train.tasks.targets import Teacher, build_loss
from orchestrator.train.text_states import TextTable
from orchestrator.train.views import reads_pictures
from orchestrator.train.weights import read_weights


def build_task(
    recipe: Recipe,
    stage: Stage,
    *,
    store: Store,
    device: torch.device,
    group: TokenGroup | None = None,
) -> Task:
    """Networks with their initial weights, the same on every rank: fresh, or of another stage.

    Args:
        recipe: the whole recipe.
        stage: what is trained.
        store: the run's folder.
        device: of this rank.
        group: the ranks that share the tokens of a diffusion transformer, if any do.
    """
    task = _fresh(recipe, stage, store=store, device=device)
    if group is not None:
        assert isinstance(task, DiffusionTask)
        task.share_tokens(group)
    if stage.begins_with is not None:
        task.start_from(read_weights(store, stage=stage.begins_with), stage=stage.begins_with)
    return task


def _fresh(recipe: Recipe, stage: Stage, *, store: Store, device: torch.device) -> Task:
    with torch.random.fork_rng(devices=[]):
        # Initialisers of torch.nn know only the global generator.
        torch.manual_seed(seed_of(recipe.seed, stage.id, "init"))
        match stage.training.model:
            case AutoencoderConfig():
                return AutoencoderTask(stage.training, device=device)
            case SmallPairConfig():
                return PairTask(stage, device=device)
            case PriorConfig():
                pair = load_pair(store, recipe, stage=stage, device=device)
                return PriorTask(stage, device=device, pair=pair)
            case UNetConfig():
                return _pixel_task(recipe, stage, store=store, device=device)
            case DiTConfig():
                return DiffusionTask(
                    recipe, stage, device=device, frozen=_frozen_text(recipe, stage, store=store)
                )


def _pixel_task(recipe: Recipe, stage: Stage, *, store: Store, device: torch.device) -> PixelTask:
    pair = None
    if reads_pictures(stage):
        pair = load_pair(store, recipe, stage=stage, device=device)
        wanted = stage.training.unet.image_embedding
        if wanted != pair.embedding_width:
            raise UserError(
                f"stages.{stage.id}.train.model.image_embedding={wanted}, wanted "
                f"{pair.embedding_width}, the width of the pair's embeddings"
            )
    frozen = build_frozen_text(recipe, device=device) if stage.training.unet.text else None
    teacher = None
    if stage.distill is not None:
        above = recipe.stage(stage.distill.teacher)
        model = load_unet(recipe, above, read_weights(store, stage=above.id), frozen=frozen)
        if stage.training.precision == "bf16":  # as the student runs in its engine
            model.bfloat16()
        teacher = Teacher(model=model.to(device), text=frozen)
    loss = build_loss(
        stage.distill, objective=build_objective(stage.training.diffusion), teacher=teacher
    )
    return PixelTask(recipe, stage, device=device, pair=pair, frozen=frozen, loss=loss)


def _frozen_text(recipe: Recipe, stage: Stage, *, store: Store) -> TextTable | None:
    if recipe.text.kind == "byt5":
        return None
    return TextTable.read(store, folder=f"stages/{stage.latents}")

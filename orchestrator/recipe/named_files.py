"""Files and folders with weights that a recipe names."""

from models.sora.autoencoder_config import AutoencoderLossConfig
from models.text.config import Byt5Config
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage


def checkpoints(recipe: Recipe) -> dict[str, str]:
    """Pretrained encoders by field: folders, or hub names ``org/name``."""
    found: dict[str, str] = {}
    if not isinstance(recipe.text, Byt5Config):
        found["text.path"] = recipe.text.path
    if recipe.pair is not None:
        found["pair.path"] = recipe.pair.path
    return found


def perceptual_files(stage: Stage) -> dict[str, str]:
    """Files with weights of a perceptual distance, by the stage's field that names them."""
    files: dict[str, str] = {}
    objective = stage.train.objective if stage.train else None
    if isinstance(objective, AutoencoderLossConfig) and objective.perceptual is not None:
        files["train.objective.perceptual.path"] = objective.perceptual.path
    if stage.evaluate is not None and stage.evaluate.perceptual is not None:
        files["evaluate.perceptual"] = stage.evaluate.perceptual
    return files

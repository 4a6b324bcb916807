"""From a YAML file and overrides to a checked recipe, or to one line that says what is wrong."""

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from models.text.config import check_text
from models.text.pair_config import check_pair
from orchestrator.errors import UserError
from orchestrator.recipe.distill import complete
from orchestrator.recipe.named_files import perceptual_files
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.refusals import refuse_secrets
from orchestrator.recipe.tree import Tree
from orchestrator.recipe.yaml_file import apply_override, in_one_line, read_tree


def load_recipe(path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, overrides and validates a recipe, and looks for the weights that it names.

    Args:
        path: a YAML file.
        overrides: ``KEY=VALUE`` with dots; stages by id: ``stages.dit.train.steps=10``.

    Raises:
        UserError: one line with the field, the value seen and the value wanted.
    """
    recipe = read_recipe(path, overrides=overrides)
    _check_files(recipe, origin=str(path))
    return recipe


def read_recipe(path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """The same for another machine's recipe: the weights that it names may be there only."""
    tree = read_tree(Path(path), what="recipe")
    for override in overrides:
        apply_override(tree, override)
    return parse_recipe(tree, origin=str(path))


def parse_recipe(tree: Tree, *, origin: str) -> Recipe:
    """Validates a recipe given as a plain tree; ``origin`` names it in errors."""
    refuse_secrets(tree, origin=origin)
    try:
        return Recipe.model_validate_json(json.dumps(complete(tree)))
    except ValidationError as error:
        raise UserError(f"{origin}: {in_one_line(error, tree)}") from None
    except TypeError as error:
        raise UserError(f"{origin}: not JSON: {error}") from None
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from None


def _check_files(recipe: Recipe, *, origin: str) -> None:
    """Pretrained weights that a recipe names must be there before anything is started."""
    try:
        check_text(recipe.text)
        if recipe.pair is not None:
            check_pair(recipe.pair)
    except ValueError as error:
        raise UserError(f"{origin}: {error}") from None
    for stage in recipe.stages:
        for field, file in perceptual_files(stage).items():
            if not Path(file).is_file():
                raise UserError(
                    f"{origin}: stages.{stage.id}.{field}={file} does not exist, "
                    "wanted a safetensors file"
                )

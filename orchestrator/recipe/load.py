"""From a YAML file and overrides to a checked recipe, or to one line that says what is wrong."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from models.sora.autoencoder_config import AutoencoderLossConfig
from models.text.config import check_text
from models.text.pair_config import check_pair
from orchestrator.errors import UserError
from orchestrator.recipe.distill import complete
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.recipe.tree import Tree, is_list, is_mapping, unshared


def load_recipe(path: str | Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Reads, overrides and validates a recipe.

    Args:
        path: a YAML file.
        overrides: ``KEY=VALUE`` with dots; stages by id: ``stages.dit.train.steps=10``.

    Raises:
        UserError: one line with the field, the value seen and the value wanted.
    """
    tree = _read(Path(path))
    for override in overrides:
        _apply(tree, override)
    recipe = parse_recipe(tree, origin=str(path))
    _check_files(recipe, origin=str(path))
    return recipe


def parse_recipe(tree: Tree, *, origin: str) -> Recipe:
    """Validates a recipe given as a plain tree; ``origin`` names it in errors."""
    try:
        return Recipe.model_validate_json(json.dumps(complete(tree)))
    except ValidationError as error:
        raise UserError(f"{origin}: {_one_line(error, tree)}") from None
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
        for field, file in _perceptual_files(stage).items():
            if not Path(file).is_file():
                raise UserError(
                    f"{origin}: stages.{stage.id}.{field}={file} does not exist, "
                    "wanted a safetensors file"
                )


def _perceptual_files(stage: Stage) -> dict[str, str]:
    """Files with weights of a perceptual distance, by the stage's field that names them."""
    files: dict[str, str] = {}
    objective = stage.train.objective if stage.train else None
    if isinstance(objective, AutoencoderLossConfig) and objective.perceptual is not None:
        files["train.objective.perceptual.path"] = objective.perceptual.path
    if stage.evaluate is not None and stage.evaluate.perceptual is not None:
        files["evaluate.perceptual"] = stage.evaluate.perceptual
    return files


def _read(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"recipe {path}: {error.strerror or error}") from None
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise UserError(f"recipe {path}: not YAML{line}: {problem}") from None
    if not is_mapping(tree):
        raise UserError(f"recipe {path}: holds a {type(tree).__name__}, wanted a mapping")
    try:
        return unshared(tree)
    except RecursionError:
        raise UserError(f"recipe {path}: an anchor holds itself, wanted a tree") from None


def _apply(tree: Tree, override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise UserError(f"--set {override}: wanted KEY=VALUE")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not YAML") from None
    *parents, last = key.split(".")
    node: Any = tree
    for name in parents:
        node = _child(node, name, override)
    if is_list(node):
        node[_position(node, last, override)] = value
    elif is_mapping(node):
        node[last] = value
    else:
        raise UserError(
            f"--set {override}: {parents[-1]} is a {type(node).__name__}, not a mapping"
        )


def _child(node: Any, name: str, override: str) -> Any:
    if is_list(node):
        return node[_position(node, name, override)]
    if not is_mapping(node):
        raise UserError(f"--set {override}: nothing below {name}")
    return node.setdefault(name, {})


def _position(node: list[Any], name: str, override: str) -> int:
    for position, item in enumerate(node):
        if is_mapping(item) and item.get("id") == name:
            return position
    if name.isdigit() and int(name) < len(node):
        return int(name)
    ids = [str(item["id"]) for item in node if is_mapping(item) and "id" in item]
    raise UserError(f"--set {override}: no {name}, wanted one of {', '.join(ids) or len(node)}")


def _one_line(error: ValidationError, tree: Tree) -> str:
    errors = error.errors(include_url=False)
    first = errors[0]
    where = _field(first["loc"], tree)
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key{more}"
    if first["type"] == "missing":
        return f"{where}: missing, wanted a value{more}"
    if first["type"] == "value_error":
        return f"{where + ': ' if where else ''}{message}{more}"
    seen = json.dumps(first["input"], default=str)
    seen = seen if len(seen) <= 60 else seen[:57] + "..."
    return f"{where}={seen}: {message}{more}"


def _field(location: tuple[int | str, ...], tree: Tree) -> str:
    """Dotted path; stages by their id, without the names that a union adds."""
    names: list[str] = []
    node: Any = tree
    for step in location:
        if isinstance(step, int):
            node = node[step] if is_list(node) and step < len(node) else None
            label = node.get("id", step) if is_mapping(node) else step
            names.append(str(label))
        elif step.startswith("<") or (
            is_mapping(node) and step not in node and step == node.get("kind")
        ):
            continue
        else:
            names.append(step)
            node = node.get(step) if is_mapping(node) else None
    return ".".join(names)

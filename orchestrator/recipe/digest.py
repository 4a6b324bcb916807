"""What makes two runs the same run."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage

# Where and how fast, not what: these may change between two starts of one run.
_PLACEMENT = ("compute", "save")
_SPEED = ("micro_batch", "checkpointing", "compile", "log_every", "preview", "sampler")
_GUARD = ("health",)  # of no effect on training that is well
# Came later: left out while they say what was done before, so that those runs go on.
_LATER = {"batch_by": "clips"}
_LATER_DATA = {"shuffle_shards": 16}


def canonical(tree: Any) -> str:
    """JSON with sorted keys and no spaces."""
    return json.dumps(tree, sort_keys=True, separators=(",", ":"))


def sha256(text: str) -> str:
    """Hex digest of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def recipe_tree(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain JSON values."""
    return recipe.model_dump(mode="json")


def stage_identity(stage: Stage) -> dict[str, Any]:
    """The part of a stage that decides what it computes."""
    tree = stage.model_dump(mode="json", exclude=set(_PLACEMENT))
    if tree["train"] is not None:
        for field in _SPEED + _GUARD:
            del tree["train"][field]
        _drop(tree["train"], _LATER)
        if tree["train"]["augmentation"] is not None:
            del tree["train"]["augmentation"]["level"]  # of sampling alone
    return tree


def sampling_identity(stage: Stage) -> dict[str, Any]:
    """The part of a stage that decides how what it trained is sampled."""
    train = stage.training
    level = None if train.augmentation is None else train.augmentation.level
    return {"sampler": train.sampler.model_dump(mode="json"), "level": level}


def recipe_identity(recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides what it computes, whatever the machines it runs on."""
    tree = recipe_tree(recipe)
    for field in ("runs", "tracking", "price"):
        del tree[field]
    for source in recipe.data.sources:
        _at(tree["data"], source).pop("uri")
    for field in ("workers", "cache_dir", "cache_bytes", "memory_bytes", "audit", "bad_samples"):
        del tree["data"][field]
    _drop(tree["data"], _LATER_DATA)
    tree["stages"] = [stage_identity(stage) for stage in recipe.stages]
    return tree


def _drop(tree: dict[str, Any], values: Mapping[str, object]) -> None:
    for field, value in values.items():
        if tree[field] == value:
            del tree[field]


def _at(tree: dict[str, Any], field: str) -> dict[str, Any]:
    for name in field.split("."):
        tree = tree[name]
    return tree


def recipe_digest(recipe: Recipe) -> str:
    """Sha256 of what the recipe computes."""
    return sha256(canonical(recipe_identity(recipe)))

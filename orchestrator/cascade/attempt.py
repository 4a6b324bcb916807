"""Starting a run, or going on with it: the recipe in its folder, and this start's number."""

import json
import os
import platform
import time
from collections.abc import Mapping
from typing import Any

from orchestrator.errors import UserError
from orchestrator.recipe.digest import recipe_digest, recipe_identity, recipe_tree
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import Store

RECIPE = "recipe.json"


def begin(store: Store, recipe: Recipe, *, data: Mapping[str, str]) -> int:
    """Writes recipe.json and this start's file below attempts/.

    Args:
        store: the run's folder.
        recipe: what is to be run.
        data: digests of the data indexes, ``{"train": ..., "eval": ...}``.

    Returns:
        The number of this start, from 1.

    Raises:
        UserError: if the folder holds a run of another recipe or of other clips.
    """
    found = _read(store)
    if found is not None:
        _check_data(store, found.get("data", {}), data)
        _check_recipe(store, found["recipe"], recipe)
    tree = {"digest": recipe_digest(recipe), "data": dict(data), "recipe": recipe_tree(recipe)}
    if tree != found:
        store.put(RECIPE, json.dumps(tree, indent=1).encode())
    return _take_number(store)


def _read(store: Store) -> dict[str, Any] | None:
    if not store.exists(RECIPE):
        return None
    try:
        return json.loads(store.get(RECIPE))
    except json.JSONDecodeError:
        raise UserError(f"{store.uri}/{RECIPE}: not JSON, wanted the recipe of a run") from None


def _take_number(store: Store) -> int:
    start = {"host": platform.node(), "pid": os.getpid(), "time": time.time()}
    number = len(store.list("attempts/")) + 1
    while not store.put_new(f"attempts/{number:04d}.json", json.dumps(start).encode()):
        number += 1
    return number


def _check_data(store: Store, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    for name, digest in here.items():
        seen = there.get(name, digest)
        if seen != digest:
            raise UserError(
                f"data.{name}: index digest {digest[:12]}, but the run in {store.uri} was made "
                f"from {seen[:12]}; wanted the same clips, or another --run"
            )


def _check_recipe(store: Store, tree: dict[str, Any], recipe: Recipe) -> None:
    """A stage may still change until it has saved something."""
    there = recipe_identity(Recipe.model_validate_json(json.dumps(tree)))
    here = recipe_identity(recipe)
    for key, seen, wanted in _differences(there, here, path=""):
        stage = key.split(".")[1] if key.startswith("stages.") else None
        if stage is not None and not store.list(f"stages/{stage}/"):
            continue
        raise UserError(
            f"{key}={_short(wanted)}, but the run in {store.uri} has {_short(seen)}; "
            "wanted the same recipe, or another --run"
        )


def _differences(there: Any, here: Any, *, path: str) -> list[tuple[str, Any, Any]]:
    if there == here:
        return []
    there, here = _by_id(there), _by_id(here)
    if not isinstance(there, dict) or not isinstance(here, dict):
        return [(path, there, here)]
    return [
        difference
        for key in dict.fromkeys([*there, *here])
        for difference in _differences(
            there.get(key), here.get(key), path=f"{path}.{key}" if path else str(key)
        )
    ]


def _by_id(node: Any) -> Any:
    """A list of things with ids as a mapping."""
    if isinstance(node, list) and node and all(isinstance(one, dict) for one in node):
        return {str(one.get("id", place)): one for place, one in enumerate(node)}
    return node


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

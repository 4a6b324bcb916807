"""Starting a run, or going on with it: the recipe in its folder, and this start's number."""

import json
import os
import platform
import time
from collections.abc import Mapping
from typing import Any

from orchestrator.cascade.done import read_done
from orchestrator.errors import UserError
from orchestrator.plan.graph import input_digest
from orchestrator.recipe.digest import recipe_digest, recipe_identity, recipe_tree
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.attempts import ATTEMPTS, newest_attempt
from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store

RECIPE = "recipe.json"


def begin(store: Store, recipe: Recipe, *, data: Mapping[str, str]) -> int:
    """Writes recipe.json and this start's file below attempts/.

    What a finished stage was made from must be as it was; everything else may change.

    Args:
        store: the run's folder.
        recipe: what is to be run.
        data: digests of the data indexes by field, ``{"train": ..., "eval": ...}``.

    Returns:
        The number of this start, from 1.

    Raises:
        UserError: if a stage was finished by another recipe or from other clips.
    """
    found = _read(store)
    if found is not None:
        _check_finished(store, found, recipe, data=data)
    tree = {"digest": recipe_digest(recipe), "data": dict(data), "recipe": recipe_tree(recipe)}
    if tree != found:
        store.put(RECIPE, json.dumps(tree, indent=1).encode())
    return _take_number(store)


def _read(store: Store) -> dict[str, Any] | None:
    return read_json(store, RECIPE) if store.exists(RECIPE) else None


def _take_number(store: Store) -> int:
    start = {"host": platform.node(), "pid": os.getpid(), "time": time.time()}
    number = newest_attempt(store) + 1
    while not store.put_new(f"{ATTEMPTS}{number:04d}.json", json.dumps(start).encode()):
        number += 1
    return number


def _check_finished(
    store: Store, found: dict[str, Any], recipe: Recipe, *, data: Mapping[str, str]
) -> None:
    before = Recipe.model_validate_json(json.dumps(found["recipe"]))
    here = {stage.id: stage for stage in recipe.stages}
    for stage in before.stages:
        done = read_done(store, stage=stage.id)
        if done is None:
            continue
        if stage.id in here and done["input"] == input_digest(recipe, here[stage.id], data=data):
            continue
        made_from = _above(before, stage.id)
        names = {name for one in made_from for name in before.reads(before.stage(one))}
        clips = _other_clips(
            found["data"], {name: data[name] for name in sorted(names) if name in data}
        )
        what = clips or _other_key(before, recipe, stages=made_from)
        raise UserError(
            f"{what or f'stages.{stage.id}: other inputs'}, and stage {stage.id} of the run in "
            f"{store.uri} is finished; wanted what it was made from, or another --run"
        )


def _above(recipe: Recipe, stage: str) -> set[str]:
    """A stage and all that it is made from."""
    needed = [_above(recipe, one) for one in recipe.needs(recipe.stage(stage))]
    return {stage}.union(*needed)


def _other_clips(there: Mapping[str, str], here: Mapping[str, str]) -> str | None:
    for name, digest in here.items():
        seen = there.get(name, digest)
        if seen != digest:
            return f"data.{name}: index digest {digest[:12]}, but the run has {seen[:12]}"
    return None


def _other_key(before: Recipe, recipe: Recipe, *, stages: set[str]) -> str | None:
    """The first key that differs, of those that decide what ``stages`` compute."""
    differences = _differences(recipe_identity(before), recipe_identity(recipe), path="")
    own = [one for one in differences if one[0].startswith("stages.")]
    own = [one for one in own if one[0].split(".")[1] in stages]
    common = [one for one in differences if one[0].split(".")[0] not in ("stages", "name")]
    for key, seen, wanted in own + common:
        return f"{key}={_short(wanted)}, but the run has {_short(seen)}"
    return None


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

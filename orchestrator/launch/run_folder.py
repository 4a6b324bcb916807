"""Opening a run that is already in storage."""

from typing import Any

from orchestrator.errors import UserError
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.json_files import read_json
from orchestrator.storage.store import Store, open_store

RECIPE = "recipe.json"


def open_run(uri: str) -> tuple[Store, Recipe]:
    """The store and the resolved recipe of a run.

    Raises:
        UserError: if there is no run at ``uri``.
    """
    store = open_store(uri)
    if not store.exists(RECIPE):
        raise UserError(f"RUN={uri}: no {RECIPE} there, wanted the folder of a run")
    tree: dict[str, Any] = read_json(store, RECIPE)["recipe"]
    return store, parse_recipe(tree, origin=f"{uri}/{RECIPE}")

"""Places of a recipe as a job on a cluster can use them."""

import os

from orchestrator.errors import UserError
from orchestrator.launch.places import run_uri
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.uri import FILE_SCHEMES, resolve, scheme_of
from orchestrator.tracking.target import is_relative, resolve_target


def absolute_places(recipe: Recipe, *, run: str | None) -> dict[str, str]:
    """Folders and files of the recipe by option or field, from this machine's working folder."""
    places = {f"data.{name}.uri": source.uri for name, source in recipe.data.sources.items()}
    found = {key: resolve(place) for key, place in places.items()}
    found["--run"] = run_uri(recipe, run=run)
    if recipe.tracking.uri.startswith("sqlite:"):
        found["tracking.uri"] = resolve_target(recipe.tracking.uri, run_uri=found["--run"]).uri
    return found


def check_places(recipe: Recipe, *, run: str | None, where: str) -> None:
    """Refuses what only this machine knows, for a cluster of others.

    Args:
        recipe: as it will run.
        run: the URI that the user gave for the run.
        where: the cluster, for the message.

    Raises:
        UserError: for a relative folder or file.
    """
    places = {f"data.{name}.uri": source.uri for name, source in recipe.data.sources.items()}
    for key, place in {"--run": run or recipe.runs, **places}.items():
        if scheme_of(place) in FILE_SCHEMES and not os.path.isabs(place):
            raise UserError(
                f"{key}={place}: a relative folder means nothing on {where}; wanted "
                "s3://..., or an absolute path that every node sees"
            )
    if is_relative(recipe.tracking.uri):
        raise UserError(
            f"tracking.uri={recipe.tracking.uri}: a relative file is lost with the job's "
            f"own folder on {where}; wanted a server's http(s) URL, or sqlite:////FILE "
            "at an absolute path"
        )

"""Places of a recipe as a job on a cluster can use them."""

import os
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import UserError
from orchestrator.launch.places import run_uri
from orchestrator.recipe.recipe import Recipe
from orchestrator.redact import assigns_secret, holds_secret
from orchestrator.storage.uri import FILE_SCHEMES, resolve, scheme_of
from orchestrator.tracking.target import is_relative, resolve_target


def absolute_places(recipe: Recipe, *, run: str | None) -> dict[str, str]:
    """Folders and files of the recipe by option or field, from this machine's working folder.

    The run's is always there (``--run``), others where the recipe names them otherwise.
    """
    where = run_uri(recipe, run=run)
    places = {f"data.{name}.uri": source.uri for name, source in recipe.data.sources.items()}
    found = {key: resolve(place) for key, place in places.items()}
    if recipe.tracking.uri.startswith("sqlite:"):
        places["tracking.uri"] = recipe.tracking.uri
        found["tracking.uri"] = resolve_target(recipe.tracking.uri, run_uri=where).uri
    return {"--run": where} | {key: uri for key, uri in found.items() if uri != places[key]}


def check_no_secret(file: Path, *, overrides: Sequence[str]) -> None:
    """Refuses what opens something by itself in what is sent to the cluster and kept there.

    Args:
        file: the recipe's, which is sent as it is: what an option replaces, and comments, too.
        overrides: as given; the command holds them all.

    Raises:
        UserError: without the secret.
    """
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if holds_secret(line) or assigns_secret(line):
            raise UserError(
                f"{file}: line {number} has a password or a token, and the file is sent; wanted "
                "credentials in the nodes' environment"
            )
    for override in overrides:
        if holds_secret(override) or assigns_secret(override):
            raise UserError(
                f"--set {override.partition('=')[0]}: holds a password or a token, wanted "
                "credentials in the nodes' environment"
            )


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

"""Places of a recipe as a job on a cluster can use them."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from orchestrator.errors import UserError
from orchestrator.launch.places import run_uri
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.uri import FILE_SCHEMES, resolve, scheme_of
from orchestrator.tracking.target import is_relative, redact, resolve_target


def absolute_places(recipe: Recipe, *, run: str | None) -> dict[str, str]:
    """Folders and files of the recipe by option or field, from this machine's working folder."""
    places = {f"data.{name}.uri": source.uri for name, source in recipe.data.sources.items()}
    found = {key: resolve(place) for key, place in places.items()}
    found["--run"] = run_uri(recipe, run=run)
    if recipe.tracking.uri.startswith("sqlite:"):
        found["tracking.uri"] = resolve_target(recipe.tracking.uri, run_uri=found["--run"]).uri
    return found


# A URL with a password, wherever it stands in a file.
_PASSWORD = re.compile(r"://[^/\s:@]*:[^/\s@]+@")
_SECRET_KEY = re.compile("password|token|secret", re.IGNORECASE)


def check_no_password(recipe: Recipe, *, file: Path, overrides: Sequence[str]) -> None:
    """Refuses one in a URI: recipe and command are kept by the cluster and the run.

    Args:
        recipe: as it will run.
        file: its file, which is sent as it is: what an option replaces, and comments, too.
        overrides: as given; the command holds them all.

    Raises:
        UserError: without the password.
    """
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if _PASSWORD.search(line):
            raise UserError(
                f"{file}: line {number} has a URL with a password, and the file is sent; wanted "
                "credentials in the nodes' environment"
            )
    for override in overrides:
        if _PASSWORD.search(override):
            raise UserError(
                f"--set {override.partition('=')[0]}: holds a URL with a password, wanted "
                "credentials in the nodes' environment"
            )
    uri = recipe.tracking.uri
    if _has_secret(uri):
        raise UserError(
            f"tracking.uri={redact(uri.partition('?')[0])}: holds a password or a token, wanted an "
            "MLflow server's URL, and MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the "
            "nodes' environment"
        )


def _has_secret(uri: str) -> bool:
    """True for a password, for a user of a web server (a token, mostly), for both in a query."""
    parts = urlsplit(uri)
    is_web = parts.scheme in ("http", "https")
    return (
        parts.password is not None
        or (is_web and parts.username is not None)
        or any(_SECRET_KEY.search(key) for key, _ in parse_qsl(parts.query))
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

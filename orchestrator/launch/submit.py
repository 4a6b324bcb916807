"""`rushes submit`: a recipe as a Ray job."""

import json
import os
import secrets
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from orchestrator.errors import UnavailableError, UserError
from orchestrator.launch.job_log import follow_job
from orchestrator.launch.package import RECIPE_FOLDER, make_package
from orchestrator.launch.places import run_uri
from orchestrator.launch.ray_session import set_auth_mode
from orchestrator.recipe.digest import recipe_digest
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.uri import FILE_SCHEMES, resolve, scheme_of
from orchestrator.tracking.target import is_relative, resolve_target

STOP_WAIT_S = 120  # between `ray job stop`'s SIGTERM and its SIGKILL: time to save

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def submit(
    recipe: Recipe,
    *,
    file: Path,
    overrides: Sequence[str],
    run: str | None,
    address: str,
    follow: bool,
    console: Console,
) -> None:
    """Sends our code and the recipe to a cluster, to run there.

    Args:
        recipe: the file's, with the overrides.
        file: the recipe file.
        overrides: as given.
        run: URI of the run's folder.
        address: the cluster's dashboard, ``http://HOST:PORT``.
        follow: show the job's log and end as it ends.
        console: where to show it.

    Raises:
        UserError: if the recipe names places that the cluster cannot know.
        UnavailableError: if the cluster does not answer.
        RushesError: when followed, with the job's own exit code.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise UserError(f"--address {address}: wanted the dashboard's URL, http://HOST:8265")
    places = _places(recipe, run=run, address=address)
    uri = places.pop("--run")
    command = ["python", "-m", "orchestrator", "train", f"{RECIPE_FOLDER}/{file.name}"]
    command += ["--run", uri]
    for override in [*overrides, *(f"{key}={json.dumps(value)}" for key, value in places.items())]:
        command += ["--set", override]
    set_auth_mode()
    from ray.job_submission import JobSubmissionClient

    job = f"rushes-{recipe.name}-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory(prefix="rushes-submit-") as folder:
        size = make_package(Path(folder), recipe=file)
        console.print(f"sending {size / 1e6:.1f} MB of code to {address}", highlight=False)
        try:
            client = JobSubmissionClient(address)
            client.submit_job(
                submission_id=job,
                entrypoint=shlex.join(command),
                runtime_env={
                    "working_dir": folder,
                    "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
                },
                metadata={
                    "rushes.recipe": recipe.name,
                    "rushes.run": uri,
                    "rushes.digest": recipe_digest(recipe),
                },
            )
        except (ConnectionError, RuntimeError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UnavailableError(f"--address {address}: {reason}") from None
    for line in (
        f"job    {job}",
        f"run    {uri}",
        f"follow {_hint('logs --follow', address, job)}",
        f"stop   {_hint('stop', address, job)}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if follow:
        follow_job(client, job=job, console=console, again=_hint("logs --follow", address, job))


def _hint(command: str, address: str, job: str) -> str:
    return f"ray job {command} --address {address} {job}"


def _places(recipe: Recipe, *, run: str | None, address: str) -> dict[str, str]:
    """Folders of the recipe made absolute where the cluster is this machine.

    Raises:
        UserError: for a relative folder or file where it is another one.
    """
    uri = run or run_uri(recipe, run=None)
    places = {f"data.{name}.uri": source.uri for name, source in recipe.data.sources.items()}
    is_here = urlsplit(address).hostname in _LOOPBACK
    if not is_here:
        given = {"--run": run or recipe.runs, **places}
        for key, place in given.items():
            if scheme_of(place) in FILE_SCHEMES and not os.path.isabs(place):
                raise UserError(
                    f"{key}={place}: a relative folder means nothing on {address}; wanted "
                    "s3://..., or an absolute path that every node sees"
                )
        if is_relative(recipe.tracking.uri):
            raise UserError(
                f"tracking.uri={recipe.tracking.uri}: a relative file is lost with the job's "
                f"own folder on {address}; wanted a server's http(s) URL, or sqlite:////FILE "
                "at an absolute path"
            )
    found = {key: resolve(place) for key, place in places.items()}
    found["--run"] = resolve(uri)
    if recipe.tracking.uri.startswith("sqlite:") and is_here:
        found["tracking.uri"] = resolve_target(recipe.tracking.uri, run_uri=found["--run"]).uri
    return found

"""`rushes submit`: a recipe as a Ray job, once at a time."""

import hashlib
import json
import platform
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console

from orchestrator.errors import UnavailableError, UserError
from orchestrator.launch.job_log import follow_or_stop, hint, terminating
from orchestrator.launch.job_places import absolute_places, check_no_secret, check_places
from orchestrator.launch.jobs import (
    DIGEST,
    NAME,
    RECIPE,
    REQUEST,
    RUN,
    Job,
    Jobs,
    checked_address,
    open_jobs,
)
from orchestrator.launch.package import RECIPE_FOLDER, Package, list_package, shown_bytes
from orchestrator.recipe.digest import canonical, recipe_digest, recipe_tree, sha256
from orchestrator.recipe.recipe import Recipe

# Between the SIGTERM of `ray job stop` and its SIGKILL, for the last checkpoint to be written.
# A job that has saved ends at once, so it costs nothing to give a slow store its time.
STOP_WAIT_S = 600

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def submit(
    recipe: Recipe,
    *,
    file: Path,
    overrides: Sequence[str],
    run: str | None,
    name: str | None,
    address: str,
    follow: bool,
    console: Console,
) -> None:
    """Sends our code and the recipe to a cluster, to run there.

    A run that a job works on already is not started twice: the job is shown, or followed.

    Args:
        recipe: the file's, with the overrides.
        file: the recipe file.
        overrides: as given.
        run: URI of the run's folder.
        name: what the dashboard calls the job; default: the recipe's name.
        address: the cluster's dashboard, ``http://HOST:PORT``.
        follow: show the job's log and end as it ends.
        console: where to show it.

    Raises:
        UserError: if the recipe names places that the cluster cannot know, if there is too much
            to send, or if a job with another recipe works on the run.
        UnavailableError: if the cluster does not answer.
        RushesError: when followed, with the job's own exit code.
    """
    address = checked_address(address)
    check_no_secret(file, overrides=overrides)
    is_near = urlsplit(address).hostname in _LOOPBACK
    if not is_near:
        check_places(recipe, run=run, where=address)
    package = list_package(recipe, file=file, folder=Path.cwd())
    jobs = open_jobs(address)
    if is_near:
        _check_others(recipe, run=run, jobs=jobs)
    places = absolute_places(recipe, run=run)
    uri = places.pop("--run")
    command = _command(file, overrides=overrides, run=uri, places=places)
    about = {
        RECIPE: recipe.name,
        RUN: uri,
        DIGEST: recipe_digest(recipe),
        REQUEST: sha256(canonical({"command": command, "recipe": recipe_tree(recipe)})),
        NAME: name or recipe.name,
    }
    if not follow:
        _find_or_start(jobs, package, command=command, about=about, console=console)
        return
    # From here on: a SIGTERM between the start of a job and its first line is meant for it.
    with terminating() as terminated:
        job = _find_or_start(jobs, package, command=command, about=about, console=console)
        follow_or_stop(jobs, job=job, console=console, terminated=terminated)


def _find_or_start(
    jobs: Jobs, package: Package, *, command: str, about: dict[str, str], console: Console
) -> str:
    """The id of the job that works on the run now; says what is typed to look at it."""
    # One look for both: a job that another command starts after it has the id that we ask for.
    seen = jobs.list()
    job = _running(seen, about=about, address=jobs.address)
    if job is None:
        new = next_id(about[RECIPE], run=about[RUN], used=[one.id for one in seen])
        job = _start(jobs, package, job=new, command=command, about=about, console=console)
    else:
        _say(console, f"job {job} runs this already; nothing is sent")
    _describe(job, run=about[RUN], jobs=jobs, console=console)
    return job


def _command(file: Path, *, overrides: Sequence[str], run: str, places: dict[str, str]) -> str:
    parts = ["python", "-m", "orchestrator", "train", f"{RECIPE_FOLDER}/{file.name}", "--run", run]
    for override in [*overrides, *(f"{key}={json.dumps(value)}" for key, value in places.items())]:
        parts += ["--set", override]
    return shlex.join(parts)


def _check_others(recipe: Recipe, *, run: str | None, jobs: Jobs) -> None:
    """A loopback address is this machine, alone or with others, or the near end of a tunnel."""
    others = [host for host in jobs.hosts() if host != platform.node()]
    if others:
        check_places(recipe, run=run, where=f"{others[0]}, which is behind {jobs.address}")


def _running(seen: Sequence[Job], *, about: dict[str, str], address: str) -> str | None:
    """The job among those of a cluster that works on the run, if there is one.

    Raises:
        UserError: if it was asked for something else.
    """
    for job in seen:
        if job.ended or job.metadata.get(RUN) != about[RUN]:
            continue
        if job.metadata.get(REQUEST) != about[REQUEST]:
            stop = hint("stop", job.id, address=address)
            raise UserError(
                f"--run {about[RUN]}: job {job.id} works on it with another recipe or other "
                f"options, wanted one at a time; stop it: {stop}"
            )
        return job.id
    return None


def _start(
    jobs: Jobs,
    package: Package,
    *,
    job: str,
    command: str,
    about: dict[str, str],
    console: Console,
) -> str:
    """Sends the package and starts the job; returns its id, or that of one that was sooner."""
    _say(
        console,
        f"sending {len(package.files)} files, {shown_bytes(package.num_bytes)}, to {jobs.address}",
    )
    if package.left_out:
        _say(console, f"not sent: {', '.join(package.left_out)}")
    with tempfile.TemporaryDirectory(prefix="rushes-submit-") as folder:
        package.copy_to(Path(folder))
        try:
            jobs.submit(
                job,
                command=command,
                folder=Path(folder),
                env={"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
                about=about,
            )
        except UnavailableError:
            # Its answer may be lost, or another command was sooner: ids are made so that they
            # meet, and a cluster takes each once.
            found = _running(jobs.list(), about=about, address=jobs.address)
            if found is None:
                raise
            return found
    return job


def next_id(name: str, *, run: str, used: Sequence[str]) -> str:
    """The id of a run's next job: two commands that ask at the same time have the same.

    Args:
        name: the recipe's.
        run: URI of the run.
        used: ids of all jobs that the cluster remembers.
    """
    stem = f"rushes-{name}-{hashlib.sha256(run.encode()).hexdigest()[:8]}"
    form = re.compile(rf"{re.escape(stem)}-(\d+)")
    numbers = [int(match[1]) for match in map(form.fullmatch, used) if match]
    return f"{stem}-{max(numbers, default=0) + 1}"


def _describe(job: str, *, run: str, jobs: Jobs, console: Console) -> None:
    _say(console, f"job    {job}")
    _say(console, f"run    {run}")
    _say(console, f"follow {hint('follow', job, address=jobs.address)}")
    _say(console, f"stop   {hint('stop', job, address=jobs.address)}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)

"""`rushes job`: what a cluster's jobs are, and the end of one."""

import json
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from orchestrator.errors import UserError
from orchestrator.launch.job_log import stop_job
from orchestrator.launch.jobs import NAME, RUN, Job, Jobs, LostJobError
from orchestrator.storage.uri import resolve


def list_jobs(jobs: Jobs, *, run: str | None) -> list[Job]:
    """All jobs of a cluster, or those of one run; oldest first."""
    return [job for job in jobs.list() if run is None or _is_of_run(job, run)]


def find_job(jobs: Jobs, name: str) -> Job:
    """The job of an id, or the newest one of a run.

    Raises:
        UserError: if there is neither.
    """
    try:
        return list_jobs(jobs, run=name)[-1] if "/" in name else jobs.get(name)
    except (IndexError, LostJobError):
        raise UserError(
            f"JOB={name}: {jobs.address} knows no such job, wanted one of "
            f"`rushes job list --address {jobs.address}`, or its run"
        ) from None


def stop_and_tell(jobs: Jobs, *, job: Job, console: Console) -> None:
    """Stops a job, waits for its end and says how it ended."""
    if job.ended:
        console.print(_how(job), markup=False, highlight=False, soft_wrap=True)
        return
    console.print(f"job {job.id} saves and stops", markup=False, highlight=False, soft_wrap=True)
    ended = stop_job(jobs, job=job.id, console=console)
    console.print(_how(ended), markup=False, highlight=False, soft_wrap=True)


def print_jobs(found: Sequence[Job]) -> None:
    """A row per job."""
    table = Table()
    for name in ("job", "status", "name", "run", "started", "took"):
        table.add_column(name, overflow="fold", no_wrap=name == "job")  # it is copied
    for job in found:
        table.add_row(
            job.id,
            job.status if not job.exit_code else f"{job.status} ({job.exit_code})",
            job.metadata.get(NAME, ""),
            job.metadata.get(RUN, ""),
            _when(job.started_s),
            _took(job),
        )
    Console().print(table)


def print_json(found: Sequence[Job]) -> None:
    """The same as one list, with all metadata."""
    print(
        json.dumps(
            [
                {
                    "job": job.id,
                    "status": job.status,
                    "exit_code": job.exit_code,
                    "started_s": job.started_s,
                    "ended_s": job.ended_s,
                    "metadata": dict(job.metadata),
                }
                for job in found
            ]
        )
    )


def _is_of_run(job: Job, run: str) -> bool:
    return RUN in job.metadata and job.metadata[RUN] == resolve(run)


def _how(job: Job) -> str:
    if job.status == "STOPPED":
        return f"job {job.id} was stopped; the command that submitted it goes on with its run"
    return f"job {job.id} ended by itself: {job.status}"


def _when(time_s: float | None) -> str:
    return "" if time_s is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(time_s))


def _took(job: Job) -> str:
    if job.started_s is None:
        return ""
    took_s = round((job.ended_s or time.time()) - job.started_s)
    return f"{took_s // 3600}:{took_s // 60 % 60:02}:{took_s % 60:02}"

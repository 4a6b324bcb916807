"""The commands of `rushes job`. Each imports what it needs: help must answer at once."""

from typing import Annotated

import typer

job_app = typer.Typer(
    help="Look at, follow and stop the jobs of a cluster.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AddressOption = Annotated[
    str, typer.Option("--address", metavar="URL", help="the cluster's dashboard, http://...")
]
JobArgument = Annotated[
    str, typer.Argument(metavar="JOB", help="its id, or the run that it works on")
]


@job_app.command("list")
def list_(
    address: AddressOption,
    run: Annotated[
        str | None, typer.Option("--run", metavar="URI", help="only those of this run")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Show the jobs that the cluster remembers, old ones too."""
    from orchestrator.launch.job_commands import list_jobs, print_jobs, print_json
    from orchestrator.launch.jobs import checked_address, open_jobs

    found = list_jobs(open_jobs(checked_address(address)), run=run)
    if as_json:
        print_json(found)
        return
    print_jobs(found)


@job_app.command("follow")
def follow(job: JobArgument, address: AddressOption) -> None:
    """Print a job's log from its beginning, and end as it ends."""
    from rich.console import Console

    from orchestrator.launch.job_commands import find_job
    from orchestrator.launch.job_log import follow_job
    from orchestrator.launch.jobs import checked_address, open_jobs

    jobs = open_jobs(checked_address(address))
    follow_job(jobs, job=find_job(jobs, job).id, console=Console())


@job_app.command("stop")
def stop(job: JobArgument, address: AddressOption) -> None:
    """Let a job save and stop; wait until it has."""
    from rich.console import Console

    from orchestrator.launch.job_commands import find_job, stop_and_tell
    from orchestrator.launch.jobs import checked_address, open_jobs

    jobs = open_jobs(checked_address(address))
    stop_and_tell(jobs, job=find_job(jobs, job), console=Console())

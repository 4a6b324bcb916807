"""The commands of `rushes data`. Each imports what it needs: help must answer at once."""

from typing import Annotated

import typer

data_app = typer.Typer(
    help="Prove which clips a run was trained on.", no_args_is_help=True, rich_markup_mode=None
)


@data_app.callback()
def _commands() -> None:
    """Prove which clips a run was trained on."""


@data_app.command("audit")
def audit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="the run's folder or URI")],
) -> None:
    """Prove that every epoch of a run used each clip once, from its logs (data.audit: true)."""
    from rich.console import Console

    from orchestrator.launch.audit import audit_run, print_audit
    from orchestrator.launch.progress import counting

    with counting("looking at steps", total=None) as on_steps:
        found = audit_run(run, on_steps=lambda _stage, done, _all: on_steps(done))
    print_audit(found, console=Console())

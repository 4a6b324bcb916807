"""The commands of `rushes data`. Each imports what it needs: help must answer at once."""

from pathlib import Path
from typing import Annotated

import typer

data_app = typer.Typer(
    help="Index, check and look at shards; prove what a run was trained on.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SourceArgument = Annotated[
    str, typer.Argument(metavar="URI", help="a folder of shards: a path, s3://..., memory://...")
]


@data_app.command("index")
def index(
    uri: SourceArgument,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="URI", help="where the index goes; default: to the shards"),
    ] = None,
    bucket: Annotated[
        list[str] | None,
        typer.Option(
            "--bucket",
            metavar="FRAMESxHEIGHTxWIDTH@FPS",
            help="what training sees of a clip; several: each clip gets the nearest in aspect",
        ),
    ] = None,
) -> None:
    """Index the tar files of WebDataset below a folder, by reading them once."""
    from rich.console import Console

    from orchestrator.launch.data_commands import index_source

    index_source(uri, out=out, buckets=bucket or (), console=Console())


@data_app.command("validate")
def validate(
    uri: SourceArgument,
    quick: Annotated[bool, typer.Option("--quick", help="do not decode the clips")] = False,
) -> None:
    """Check all of a source: index, hashes, tar files, and that every clip decodes."""
    from rich.console import Console

    from orchestrator.launch.data_commands import validate_source

    validate_source(uri, quick=quick, console=Console())


@data_app.command("show")
def show(
    uri: SourceArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE.png", help="the picture")] = Path(
        "clips.png"
    ),
    clips: Annotated[
        int, typer.Option("--clips", metavar="N", min=1, max=100, help="of every shape")
    ] = 4,
) -> None:
    """Print the shapes of a source's clips and draw some of each."""
    from rich.console import Console

    from orchestrator.launch.data_commands import show_source

    show_source(uri, out=out, clips=clips, console=Console())


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

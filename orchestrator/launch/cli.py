"""The command line. Commands import what they need: `rushes check` must answer at once."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.launch.data_cli import data_app
from orchestrator.launch.job_cli import AddressOption, job_app
from orchestrator.launch.options import (
    JsonOption,
    RecipeArgument,
    RunArgument,
    RunOption,
    SetOption,
)
from orchestrator.launch.plan_cli import plan

app = typer.Typer(
    name="rushes",
    help="Trains video generators on a cluster: one recipe, one loop, one command.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(data_app, name="data")
app.add_typer(job_app, name="job")


class Form(StrEnum):
    """What ``export`` writes."""

    SAFETENSORS = "safetensors"
    DEEPSPEED = "deepspeed"


@app.command()
def check(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE...", help="YAML files", show_default=False)
    ],
    overrides: SetOption = None,
    stages: Annotated[
        bool, typer.Option("--stages", help="shapes, weights and FLOP of every network")
    ] = False,
) -> None:
    """Validate recipes and print their stages; one that is wrong does not hide the others."""
    from rich.console import Console

    from orchestrator.launch.check import check_all, print_check, uncollected

    with uncollected():
        show = print_check
        if stages:
            # Late: it imports torch.
            from orchestrator.launch.stages import print_stages as show

        check_all(recipes, overrides=overrides or (), show=show, console=Console())


app.command()(plan)


@app.command()
def prepare(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="a folder or bucket of videos, or a CSV, JSONL, Parquet of paths"
        ),
    ],
    target: Annotated[
        str, typer.Argument(metavar="TARGET", help="where shards go: a folder, s3://...")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="a YAML file; see docs/data.md")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="change it, e.g. keep.motion.min=0.02"),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="no Ray: one video after the other, in this process")
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="at once, at most; default: all CPUs"),
    ] = None,
) -> None:
    """Turn raw videos and captions into indexed shards; goes on with what is there."""
    from rich.console import Console

    from orchestrator.launch.prepare import prepare_source
    from orchestrator.recipe.prepare import load_prepare

    loaded = load_prepare(config, overrides=overrides or ())
    prepare_source(source, target, config=loaded, local=local, workers=workers, console=Console())


@app.command()
def train(
    recipe: RecipeArgument,
    run: RunOption = None,
    overrides: SetOption = None,
    local: Annotated[
        bool, typer.Option("--local", help="no Ray: one plain process per rank")
    ] = False,
) -> None:
    """Run a recipe; if the run exists, go on with it."""
    from rich.console import Console

    from orchestrator.launch.train import train as run_recipe
    from orchestrator.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides=overrides or ())
    run_recipe(loaded, run=run, local=local, console=Console())


@app.command()
def status(
    run: RunArgument,
    as_json: JsonOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="until the run ends, with its exit code")
    ] = False,
) -> None:
    """Show where a run stands, from its storage alone."""
    from rich.console import Console

    if watch:
        from orchestrator.launch.follow_run import watch_run

        return watch_run(run, as_json=as_json, console=Console())
    from orchestrator.launch.status import print_status, read_status

    found = read_status(run)
    if as_json:
        typer.echo(json.dumps(found))
    else:
        print_status(found, console=Console())


@app.command()
def sample(
    run: RunArgument,
    prompts: Annotated[list[str] | None, typer.Argument(metavar="PROMPT...")] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR")] = Path("samples"),
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    npz: Annotated[
        bool, typer.Option("--npz", help="also the raw uint8 frames [T,H,W,3], as `frames`")
    ] = False,
    prompts_file: Annotated[
        Path | None, typer.Option("--prompts", metavar="FILE", help="one prompt a line")
    ] = None,
    teachers: Annotated[
        bool, typer.Option("--teachers", help="the networks before distillation")
    ] = False,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="becomes the first frame")
    ] = None,
    extend: Annotated[
        Path | None, typer.Option("--extend", metavar="FILE", help="a clip to go on from")
    ] = None,
    skip: Annotated[
        int | None, typer.Option("--skip", metavar="K", help="another skip of interpolation")
    ] = None,
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="go on after the last frame")
    ] = False,
) -> None:
    """Sample a finished run: an MP4 and a GIF per prompt, and a sheet of them all."""
    from orchestrator.launch.progress import counting
    from orchestrator.launch.sample import read_prompts, sample_run
    from orchestrator.train.varied import Wish

    texts = read_prompts(prompts or [], file=prompts_file)
    with counting("sampling", total=len(texts)) as on_clips:
        paths = sample_run(
            run,
            texts,
            out=out,
            seed=seed,
            npz=npz,
            distilled=not teachers,
            on_clips=on_clips,
            wish=Wish(image=image, extend=extend, skip=skip, extrapolate=extrapolate),
        )
    for path in paths:
        typer.echo(str(path))


@app.command()
def evaluate(run: RunArgument, as_json: JsonOption = False) -> None:
    """Measure the recipe's metrics on held-out prompts."""
    from orchestrator.launch.evaluate import evaluate_run, shown
    from orchestrator.launch.progress import counting

    with counting("evaluating", total=None) as on_clips:
        reports = evaluate_run(run, on_clips=lambda done, _: on_clips(done))
    if as_json:
        typer.echo(json.dumps(reports))
        return
    for stage, report in reports.items():
        for name, value in report.items():
            typer.echo(f"{stage}  {name}: {shown(name, value)}")


@app.command()
def export(
    run: RunArgument,
    stage: Annotated[str, typer.Option("--stage", metavar="ID")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR")],
    form: Annotated[
        Form, typer.Option("--format", help="safetensors: EMA; deepspeed: the newest checkpoint")
    ] = Form.SAFETENSORS,
) -> None:
    """Write a stage's EMA weights and config.json, or its whole state as DeepSpeed does."""
    if form == Form.DEEPSPEED:
        from orchestrator.launch.stock import export_stage_stock as write
    else:
        from orchestrator.launch.export import export_stage as write

    for path in write(run, stage=stage, out=out):
        typer.echo(str(path))


@app.command("import")
def import_(
    recipe: RecipeArgument,
    stage: Annotated[str, typer.Option("--stage", metavar="ID")],
    source: Annotated[
        Path,
        typer.Option(
            "--from", metavar="DIR", help="where DeepSpeed saved; pickles, so be sure of them"
        ),
    ],
    tag: Annotated[
        str | None, typer.Option("--tag", metavar="TAG", help="default: the newest one")
    ] = None,
    run: RunOption = None,
    overrides: SetOption = None,
) -> None:
    """Let a stage go on from a DeepSpeed checkpoint (ZeRO 1, 2, 3, or universal)."""
    from orchestrator.launch.progress import counting
    from orchestrator.launch.stock import import_stage
    from orchestrator.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides=overrides or ())
    with counting("writing clips", total=None) as on_clips:
        line = import_stage(
            loaded,
            run=run,
            stage=stage,
            source=source,
            tag=tag,
            on_clips=lambda _name, done, _all: on_clips(done),
        )
    typer.echo(line)


@app.command()
def submit(
    recipe: RecipeArgument,
    address: AddressOption,
    run: RunOption = None,
    overrides: SetOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="TEXT", help="of the job; default: the recipe's"),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="show its log and end with its exit code")
    ] = False,
) -> None:
    """Run a recipe as a Ray job; one that runs already is not started twice."""
    from rich.console import Console

    from orchestrator.launch.submit import submit as submit_recipe
    from orchestrator.recipe.load import read_recipe

    loaded = read_recipe(recipe, overrides=overrides or ())
    submit_recipe(
        loaded,
        file=recipe,
        overrides=overrides or [],
        run=run,
        name=name,
        address=address,
        follow=follow,
        console=Console(),
    )

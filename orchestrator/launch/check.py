"""`rushes check`: the stage graphs of recipes and what is derived. No torch, no Ray."""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from orchestrator.errors import UserError
from orchestrator.launch.places import run_uri, source_lines
from orchestrator.plan.interval import LONGEST_S, mean_time_between_failures_s
from orchestrator.recipe.data import IMAGES, TRAIN
from orchestrator.recipe.digest import recipe_digest
from orchestrator.recipe.load import load_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage


class Show(Protocol):
    """Prints what there is to know about a recipe."""

    def __call__(self, recipe: Recipe, *, console: Console) -> None:
        """Raises UserError if the recipe does not say enough."""
        ...


def check_all(
    paths: Sequence[Path], *, overrides: Sequence[str], show: Show, console: Console
) -> None:
    """Shows every recipe that is right and says of every other, in one line, what is wrong.

    Raises:
        UserError: what is wrong with the last such recipe; lines of others are printed before.
    """
    wrong: list[UserError] = []
    for path in paths:
        try:
            show(load_recipe(path, overrides=overrides), console=console)
        except UserError as error:
            text = str(error)
            wrong.append(error if str(path) in text else UserError(f"{path}: {text}"))
    for error in wrong[:-1]:
        print(f"rushes: {error}", file=sys.stderr)
    if wrong:
        raise wrong[-1]


@contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection: beside torch's modules and all layers, a tenth of the time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def print_check(recipe: Recipe, *, console: Console) -> None:
    """A table of the stages, the run's folder and the recipe's digest."""
    table = Table(title=recipe.name)
    for name in ("stage", "needs", "workers", "what"):
        table.add_column(name, overflow="fold")
    for stage in recipe.stages:
        table.add_row(
            stage.id,
            ", ".join(recipe.needs(stage)),
            _workers(stage),
            _what(stage),
        )
    console.print(table)
    for line in (
        f"run     {run_uri(recipe, run=None)}",
        *source_lines("clips   ", recipe.data.of(TRAIN)),
        *source_lines("images  ", recipe.data.of(IMAGES)),
        f"digest  {recipe_digest(recipe)[:16]}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _workers(stage: Stage) -> str:
    compute = stage.compute
    device = "GPU" if compute.gpus_per_worker else f"{compute.cpus_per_worker} CPU"
    zero = f", ZeRO {compute.zero}" if stage.train and compute.workers else ""
    sharing = compute.sequence_parallel
    shared = f", clips shared by {sharing}" if sharing > 1 else ""
    sizes = " or ".join(map(str, stage.legal_ranks)) if stage.train else str(compute.workers)
    return f"{sizes if compute.workers else 'plain'} x {device}{zero}{shared}"


def _saves(stage: Stage) -> str:
    every = stage.save.every_steps
    if every != "auto":
        return f"saves every {every} steps"
    mtbf_s = mean_time_between_failures_s(failures=0, trained_s=0.0, ranks=stage.compute.ranks)
    return (
        f"saves at step {stage.training.log_every}, then as costs and failures say (one in "
        f"{mtbf_s / 3600:,.0f} h at first), at least every {LONGEST_S / 60:.0f} minutes"
    )


def _what(stage: Stage) -> str:
    if stage.train is not None:
        train = stage.train
        height, width = train.clip.size
        passes = stage.accumulation(ranks=stage.compute.ranks)
        return (
            f"train {train.model.kind}, {train.objective.kind}\n"
            f"{train.steps} steps x {train.batch} clips of {train.clip.frames}x{height}x{width}\n"
            f"each rank {passes} x {train.micro_batch} clips a step\n"
            f"{_saves(stage)}"
        )
    if stage.encode is not None:
        return f"encode with {stage.encode.autoencoder}"
    assert stage.evaluate is not None
    return f"evaluate {stage.evaluate.prompts} prompts through {stage.evaluate.model}"

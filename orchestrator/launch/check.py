"""`rushes check`: the stage graph of a recipe and what is derived. No torch, no Ray."""

from rich.console import Console
from rich.table import Table

from orchestrator.launch.places import run_uri
from orchestrator.recipe.digest import recipe_digest
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage


def print_check(recipe: Recipe, *, console: Console) -> None:
    """A table of the stages, the run's folder and the recipe's digest."""
    table = Table()
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
        f"clips   {recipe.data.train.uri}",
        *([f"images  {recipe.data.images.uri}"] if recipe.data.images is not None else []),
        f"digest  {recipe_digest(recipe)[:16]}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _workers(stage: Stage) -> str:
    compute = stage.compute
    device = "GPU" if compute.gpus_per_worker else f"{compute.cpus_per_worker} CPU"
    zero = f", ZeRO {compute.zero}" if stage.train and compute.workers else ""
    return f"{compute.workers or 'plain'} x {device}{zero}"


def _what(stage: Stage) -> str:
    if stage.train is not None:
        train = stage.train
        height, width = train.clip.size
        passes = stage.accumulation(ranks=stage.compute.ranks)
        return (
            f"train {train.model.kind}, {train.objective.kind}\n"
            f"{train.steps} steps x {train.batch} clips of {train.clip.frames}x{height}x{width}\n"
            f"each rank {passes} x {train.micro_batch} clips a step"
        )
    if stage.encode is not None:
        return f"encode with {stage.encode.autoencoder}"
    assert stage.evaluate is not None
    return f"evaluate {stage.evaluate.prompts} prompts through {stage.evaluate.model}"

"""`rushes import` and `rushes export --format deepspeed`: checkpoints of DeepSpeed itself."""

from pathlib import Path

from orchestrator.data.sources import Notify, ensure_sources
from orchestrator.errors import UserError
from orchestrator.launch.places import run_uri, with_absolute_uris
from orchestrator.launch.run_folder import open_run
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.attempts import newest_attempt
from orchestrator.storage.store import Store, open_store, resolve
from orchestrator.train.job import StageJob
from orchestrator.train.stock import export_stock, import_stock


def import_stage(
    recipe: Recipe,
    *,
    run: str | None,
    stage: str,
    source: Path,
    tag: str | None,
    on_clips: Notify,
) -> str:
    """Commits a DeepSpeed checkpoint as the state that a run's stage goes on from.

    Args:
        recipe: as loaded.
        run: URI of the run's folder; default: named after the recipe below ``runs``.
        stage: its id.
        source: what was given to ``engine.save_checkpoint``, or one of its tags.
        tag: default: the newest one.
        on_clips: told how many clips are written, if the recipe's have to be made.

    Returns:
        One line that says what is there now.

    Raises:
        UserError: if there is no such stage or checkpoint, or the stage has begun.
    """
    recipe = with_absolute_uris(recipe)
    _check_trains(recipe, stage=stage)
    store = open_store(run_uri(recipe, run=run))
    store.check()
    ensure_sources(recipe, on_clips=on_clips)
    step = import_stock(_job(recipe, store, stage=stage), folder=source, tag=tag)
    return f"{store.uri}: stage {stage} goes on from step {step}"


def export_stage_stock(uri: str, *, stage: str, out: Path) -> list[Path]:
    """Writes a stage's newest checkpoint as ``engine.save_checkpoint`` would.

    Raises:
        UserError: if there is no such stage, or it has not begun.
    """
    uri = resolve(uri)
    store, recipe = open_run(uri)
    _check_trains(recipe, stage=stage)
    _, folders = export_stock(_job(recipe, store, stage=stage), out=out)
    return folders


def _job(recipe: Recipe, store: Store, *, stage: str) -> StageJob:
    attempt = max(1, newest_attempt(store))
    return StageJob(recipe=recipe, stage=stage, run=store.uri, attempt=attempt)


def _check_trains(recipe: Recipe, *, stage: str) -> None:
    ids = [one.id for one in recipe.stages if one.train is not None]
    if stage not in ids:
        raise UserError(f"--stage {stage}: wanted one of {', '.join(ids)}")

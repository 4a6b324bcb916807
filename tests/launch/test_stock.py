"""A stage leaves for DeepSpeed and comes back: the same losses as if it had stayed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.cascade.attempt import begin
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.launch.stock import export_stage_stock, import_stage
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import open_store
from orchestrator.train.worker import run
from tests.groups import leave_group
from tests.tiny import STEPS, tiny_recipe
from tests.train.workers import Recorded, job_of

STOPPED = 4


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    """One process group for all: DeepSpeed keeps the one that it saw first."""
    yield
    leave_group()


def come_back(recipe: Recipe, *, run_uri: Path, source: Path) -> str:
    return import_stage(
        recipe,
        run=str(run_uri),
        stage="autoencoder",
        source=source,
        tag=None,
        on_clips=lambda *_: None,
    )


def losses(run_uri: Path) -> dict[int, float]:
    lines = (run_uri / "stages" / "autoencoder" / "metrics.jsonl").read_text().splitlines()
    return {one["step"]: one["loss"] for one in map(json.loads, lines)}


def test_state_of_two_networks_goes_out_and_comes_back(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    ensure_sources(recipe, on_clips=lambda *_: None)
    stayed, left = tmp_path / "stayed", tmp_path / "left"
    begin(open_store(str(stayed)), recipe, data={})
    job = job_of(recipe, "autoencoder", run_uri=str(stayed))
    assert run(job, hooks=Recorded(stop_after=STOPPED)).step == STOPPED
    folders = export_stage_stock(str(stayed), stage="autoencoder", out=tmp_path / "stock")
    assert [folder.name for folder in folders] == ["autoencoder", "discriminator"]
    assert all((folder / f"global_step{STOPPED}").is_dir() for folder in folders)

    said = come_back(recipe, run_uri=left, source=tmp_path / "stock")
    assert said == f"{left}: stage autoencoder goes on from step {STOPPED}"
    with pytest.raises(UserError, match="stage autoencoder has begun"):
        come_back(recipe, run_uri=left, source=tmp_path / "stock")

    for uri in (stayed, left):
        again = job_of(recipe, "autoencoder", run_uri=str(uri))
        assert run(again, hooks=Recorded()).step == STEPS
    after = {step: loss for step, loss in losses(stayed).items() if step > STOPPED}
    assert len(after) == STEPS - STOPPED
    assert losses(left) == after


def test_other_networks_and_stages_are_the_users_error(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    with pytest.raises(UserError, match="wanted a checkpoint of DeepSpeed's ZeRO"):
        come_back(recipe, run_uri=tmp_path / "run", source=tmp_path)
    begin(open_store(str(tmp_path / "run")), recipe, data={})
    with pytest.raises(UserError, match="wanted a stage that began"):
        export_stage_stock(str(tmp_path / "run"), stage="autoencoder", out=tmp_path / "stock")
    with pytest.raises(UserError, match="--stage encode: wanted one of autoencoder, dit"):
        export_stage_stock(str(tmp_path / "run"), stage="encode", out=tmp_path / "stock")

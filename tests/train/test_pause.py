"""A gang saves on request at any step and waits; another one goes on from there, bitwise."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UnavailableError
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.folder import FolderStore
from orchestrator.train.pause import start_note
from orchestrator.train.worker import run
from tests.numerics.gang import Gang
from tests.tiny import STEPS, tiny_tree
from tests.train.curves import logged
from tests.train.workers import Paused, job_of, run_rank

PAUSE_AT = 3  # an odd step in the middle of a window, and no checkpoint of its own


@dataclass(frozen=True)
class Trained:
    """Runs at one world size: undisturbed, paused and let go on, and resumed from the pause."""

    folder: Path
    said: dict[str, list[dict[str, Any]]]


def recipe_of(folder: Path, *, workers: int) -> Recipe:
    tree = tiny_tree(folder, workers=workers)
    first = tree["stages"][0]
    first["train"] |= {"log_every": 4}
    first["compute"]["min_workers"] = 1
    first["save"] = {"every_steps": STEPS}
    return parse_recipe(tree | {"stages": [first]}, origin="pause")


def job_json(folder: Path, run_name: str, *, workers: int) -> str:
    recipe = recipe_of(folder, workers=workers)
    return job_of(recipe, "autoencoder", run_uri=str(folder / run_name)).model_dump_json()


@pytest.fixture(scope="module", params=[1, 2])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder, size = tmp_path_factory.mktemp("pause"), request.param
    ensure_sources(recipe_of(folder, workers=2), on_clips=lambda *_: None)
    jobs = {name: job_json(folder, name, workers=size) for name in ("straight", "paused", "copy")}
    gang = Gang(world_size=size, folder=folder)
    try:
        said = {
            "straight": gang.run(run_rank, job=jobs["straight"]),
            "paused": gang.run(
                run_rank, job=jobs["paused"], pause_after=PAUSE_AT, copy=str(folder / "copy")
            ),
            "copy": gang.run(run_rank, job=jobs["copy"]),
        }
    finally:
        gang.close()
    return Trained(folder=folder, said=said)


def curve(folder: Path, run_name: str) -> list[dict[str, Any]]:
    """All that was logged but what is measured."""
    return logged(folder / run_name / "stages/autoencoder/metrics.jsonl")


def weights(folder: Path, run_name: str) -> dict[str, torch.Tensor]:
    return load_file(folder / run_name / "stages/autoencoder/weights/ema.safetensors")


def test_the_gang_says_at_which_step_it_is_saved(trained: Trained) -> None:
    first, *others = trained.said["paused"]
    assert first["saved"] == [PAUSE_AT]
    assert all(one["saved"] == [] for one in others)
    checkpoints = trained.folder / "copy/stages/autoencoder/checkpoints"
    assert (checkpoints / f"step-{PAUSE_AT:08d}/COMMIT").exists()


@pytest.mark.parametrize("run_name", ["paused", "copy"])
def test_a_pause_leaves_no_trace_in_what_is_trained(trained: Trained, run_name: str) -> None:
    assert curve(trained.folder, run_name) == curve(trained.folder, "straight")
    straight = weights(trained.folder, "straight")
    for name, tensor in weights(trained.folder, run_name).items():
        assert torch.equal(tensor, straight[name]), name


def test_the_gang_that_takes_over_repeats_nothing(trained: Trained) -> None:
    assert trained.said["copy"][0]["notes"][0].startswith(f"goes on from step {PAUSE_AT}, ")


def test_a_pause_that_cannot_be_saved_is_refused_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_process: None
) -> None:
    put = FolderStore.put
    tried: list[str] = []

    def away(self: FolderStore, key: str, data: bytes | memoryview) -> None:
        if "checkpoints/" in key and f"step-{STEPS:08d}" not in key:
            tried.append(key.split("/")[-2])
            raise UnavailableError("the store is away")
        put(self, key, data)

    recipe = recipe_of(tmp_path, workers=0)
    ensure_sources(recipe, on_clips=lambda *_: None)
    monkeypatch.setattr(FolderStore, "put", away)
    hooks = Paused(after=PAUSE_AT, run=tmp_path / "run", copy=tmp_path / "copy")
    assert run(job_of(recipe, "autoencoder", run_uri=f"{tmp_path}/run"), hooks=hooks).step == STEPS
    assert hooks.saved == []
    assert set(tried) == {f"step-{PAUSE_AT:08d}"}


@pytest.mark.parametrize(
    ("step", "ranks", "before", "said"),
    [
        (0, 4, None, None),
        (0, 2, None, "starts with 2 workers (of 4)"),
        (7, 4, 4, "goes on from step 7"),
        (7, 2, 4, "goes on with 2 workers (of 4) from step 7"),
        (7, 1, 2, "goes on with 1 worker (of 4) from step 7"),
        (7, 4, 2, "goes on with all 4 workers from step 7"),
    ],
)
def test_a_gang_says_how_it_goes_on(
    step: int, ranks: int, before: int | None, said: str | None
) -> None:
    assert start_note(step=step, ranks=ranks, of=4, before=before) == said

"""What a user sees of a stage that was stopped between two logged steps."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.sources import ensure_sources
from orchestrator.recipe.load import parse_recipe
from orchestrator.train.job import StageJob
from orchestrator.train.worker import run
from tests.tiny import tiny_recipe, tiny_tree
from tests.train.curves import logged
from tests.train.workers import Recorded, job_of

pytestmark = pytest.mark.usefixtures("one_process")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve")
    ensure_sources(tiny_recipe(folder), on_clips=lambda *_: None)
    return folder


class KilledError(Exception):
    """What a test ends a worker with."""


class KilledAt(Recorded):
    """Hooks that end the worker after some steps, without a save."""

    def should_stop(self) -> bool:
        if super().should_stop():
            raise KilledError
        return False


def curve(folder: Path, run_name: str) -> list[dict[str, Any]]:
    """All that the autoencoder logged but what was measured."""
    return logged(folder / run_name / "stages/autoencoder/metrics.jsonl")


def seldom_logging(folder: Path, *, run_name: str) -> StageJob:
    """A job that logs every third step and saves every second."""
    tree = tiny_tree(folder)
    tree["stages"][0]["train"]["log_every"] = 3
    recipe = parse_recipe(tree, origin="tiny")
    return job_of(recipe, "autoencoder", run_uri=f"{folder}/{run_name}")


@pytest.mark.parametrize("hooks", [Recorded(stop_after=4), KilledAt(stop_after=5)])
def test_a_curve_of_seldom_logged_steps_goes_on_bitwise(folder: Path, hooks: Recorded) -> None:
    run(seldom_logging(folder, run_name="seldom-straight"), hooks=Recorded())
    name = f"seldom-{type(hooks).__name__}"
    with suppress(KilledError):
        assert run(seldom_logging(folder, run_name=name), hooks=hooks).step == 4
    assert run(seldom_logging(folder, run_name=name), hooks=Recorded()).status == "done"
    straight = curve(folder, "seldom-straight")
    assert [row["step"] for row in straight] == [3, 6]
    assert curve(folder, name) == straight


def test_a_stop_between_logged_steps_tells_of_progress_alone(folder: Path) -> None:
    hooks = Recorded(stop_after=4)
    run(seldom_logging(folder, run_name="seldom-told"), hooks=hooks)
    steps = {
        kind: [event["step"] for event in hooks.events if event["kind"] == kind]
        for kind in ("metrics", "progress")
    }
    assert steps == {"metrics": [3], "progress": [3, 4]}

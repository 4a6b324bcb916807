"""Seven stages in room for two and a driver that is killed: what is finished stays finished."""

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import yaml

from tests.ray.conftest import Head
from tests.tiny import tiny_tree

pytestmark = [pytest.mark.chaos, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

LIMIT_S = 300
STAGES = tuple(f"s{number}" for number in range(7))
STEPS, SAVE_EVERY = 20, 5
KILLS = 3
SEED = 7


@dataclass(frozen=True)
class Start:
    """One start of the command.

    Attributes:
        code: how it ended.
        out: what it said.
        done: each DONE that was there at its end, by stage: when it was written, and its text.
        saved: stages that had a checkpoint and were not done.
    """

    code: int
    out: str
    done: dict[str, tuple[int, str]]
    saved: frozenset[str]


@pytest.fixture(scope="module")
def starts(head: Head, tmp_path_factory: pytest.TempPathFactory) -> list[Start]:
    """Killed once so many stages are done and another is training; then left to its end."""
    folder = tmp_path_factory.mktemp("killed")
    recipe = write_recipe(folder)
    kill_at = sorted(Random(SEED).sample(range(len(STAGES) - 1), KILLS))
    return [run(head, recipe, kill_at=count) for count in (*kill_at, None)]


def write_recipe(folder: Path) -> Path:
    tree = tiny_tree(folder, workers=1)
    one = tree["stages"][0] | {"save": {"every_steps": SAVE_EVERY}}
    one["train"] |= {"steps": STEPS, "objective": {"kind": "autoencoder", "l2": 1.0}}
    tree["stages"] = [one | {"id": stage} for stage in STAGES]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def run(head: Head, recipe: Path, *, kill_at: int | None) -> Start:
    """Starts the command; kills it in the middle of a stage's steps, at so many finished ones."""
    stages = recipe.parent / "runs" / "tiny" / "stages"
    process = head.rushes("train", str(recipe), RAY_ADDRESS=head.gcs)
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        stage, _, rest = line.partition("  ")
        training = rest.startswith("running") and not (stages / stage / "DONE").exists()
        if kill_at is not None and training and len(finished(stages)) >= kill_at:
            process.kill()
            break
    out, err = process.communicate(timeout=LIMIT_S)
    done = finished(stages)
    return Start(
        code=process.returncode,
        out="".join(said) + out + err,
        done=done,
        saved=frozenset(one.parts[-4] for one in stages.glob("*/checkpoints/*/COMMIT")) - set(done),
    )


def finished(stages: Path) -> dict[str, tuple[int, str]]:
    return {
        one.parent.name: (one.stat().st_mtime_ns, one.read_text()) for one in stages.glob("*/DONE")
    }


def test_all_stages_are_done_in_the_end(starts: list[Start]) -> None:
    assert [start.code for start in starts] == [*[-9] * KILLS, 0], starts[-1].out
    assert set(starts[-1].done) == set(STAGES)


def test_the_driver_was_killed_with_stages_to_go_on_with(starts: list[Start]) -> None:
    for start in starts[:-1]:
        assert len(start.done) < len(STAGES)
    assert any(start.done for start in starts[:-1])


def test_no_finished_stage_is_run_again(starts: list[Start]) -> None:
    for before, after in pairwise(starts):
        for stage, written in before.done.items():
            assert after.done[stage] == written
            assert f"{stage}  done before" in after.out
            assert f"{stage}  starting" not in after.out


def test_an_unfinished_stage_goes_on_and_logs_every_step_once(
    starts: list[Start], tmp_path_factory: pytest.TempPathFactory
) -> None:
    for before, after in pairwise(starts):
        for stage in before.saved & set(after.done):
            assert f"{stage}: goes on from step" in after.out
    # pytest puts a link to the folder beside it.
    folders = tmp_path_factory.getbasetemp().glob("killed*/runs/tiny")
    (run_folder,) = {folder.resolve() for folder in folders}
    for stage in STAGES:
        lines = (run_folder / "stages" / stage / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines] == list(range(1, STEPS + 1))
    assert len(list((run_folder / "attempts").iterdir())) == KILLS + 1

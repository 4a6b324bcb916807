"""A stage whose clips are not all whole: counted, told, kept over stops, and not too many."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.launch.audit import audit_run, print_audit
from orchestrator.recipe.digest import recipe_digest, recipe_tree
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.train.job import StageJob
from orchestrator.train.worker import run
from tests.data.clips import flip_bit
from tests.groups import leave_group
from tests.tiny import tiny_tree
from tests.train.workers import Recorded

pytestmark = pytest.mark.usefixtures("one_process")

STEPS = 9  # an epoch and a half of 24 clips
BAD = (5, 17)


def recipe_of(folder: Path, *, bad_samples: int, log_every: int = 1) -> Recipe:
    tree = tiny_tree(folder)
    first = tree["stages"][0]
    first["train"] |= {"steps": STEPS, "log_every": log_every}
    tree["data"] |= {"audit": True, "bad_samples": bad_samples}
    return parse_recipe(tree | {"stages": [first]}, origin="bad samples")


def damaged_job(folder: Path, *, bad_samples: int, log_every: int = 1) -> StageJob:
    recipe = recipe_of(folder, bad_samples=bad_samples, log_every=log_every)
    index = ensure_sources(recipe, on_clips=lambda *_: None)["train"]
    for row in BAD:
        sample = index.sample(row)
        flip_bit(index.store, sample.shard, offset=sample.members[0].offset + 20)
    run_folder = folder / "run"
    run_folder.mkdir()
    (run_folder / "recipe.json").write_text(json.dumps({"recipe": recipe_tree(recipe)}))
    return StageJob(recipe=recipe, stage="autoencoder", run=str(run_folder), attempt=1)


def counts(job: StageJob) -> list[float]:
    path = Path(job.run) / "stages/autoencoder/metrics.jsonl"
    return [json.loads(line)["bad_samples"] for line in path.read_text().splitlines()]


def notes(hooks: Recorded) -> list[str]:
    told = [one["text"] for one in hooks.events if one["kind"] == "note"]
    return [text for text in told if text.startswith("bad sample")]


def test_bad_clips_are_counted_told_once_and_kept_over_a_stop(tmp_path: Path) -> None:
    job = damaged_job(tmp_path, bad_samples=2)
    first, second = Recorded(stop_after=7), Recorded()
    assert run(job, hooks=first).status == "stopped"  # after an epoch
    leave_group()
    assert run(job, hooks=second).status == "done"
    found = counts(job)
    assert len(found) == STEPS
    assert found == sorted(found)
    assert found[-1] == 2.0
    assert len(notes(first)) == 2
    assert all("is damaged: xxh64=" in text for text in notes(first))
    assert notes(second) == []
    (audit,) = audit_run(job.run, on_steps=lambda *_: None)
    assert audit.report.faults == []
    whole = audit.report.epochs[0]
    assert (whole.used, whole.bad, whole.is_whole) == (22, 2, True)
    console = Console(record=True, width=160)
    print_audit([audit], console=console)
    assert "that could not be read left out, others in their place" in console.export_text()


def test_bad_clips_met_since_the_last_logged_step_are_told_and_kept(tmp_path: Path) -> None:
    job = damaged_job(tmp_path, bad_samples=2, log_every=8)
    first, second = Recorded(stop_after=7), Recorded()
    assert run(job, hooks=first).status == "stopped"  # after an epoch, and before any line
    leave_group()
    assert len(notes(first)) == 2
    saved = Path(job.run) / "stages/autoencoder/checkpoints/step-00000007/index.json"
    known = json.loads(saved.read_text())["extra"]["bad_samples"]
    assert [one["row"] for one in known] == list(BAD)
    assert run(job, hooks=second).status == "done"
    assert notes(second) == []
    assert counts(job) == [2.0, 2.0]


def test_fewer_may_be_allowed_by_the_next_start(tmp_path: Path) -> None:
    job = damaged_job(tmp_path, bad_samples=2)
    run(job, hooks=Recorded(stop_after=7))
    leave_group()
    less = job.model_copy(update={"recipe": recipe_of(tmp_path, bad_samples=1)})
    with pytest.raises(UserError, match=r"\(2 bad samples, wanted at most data\.bad_samples=1\)$"):
        run(less, hooks=Recorded())


def test_one_bad_clip_too_many_ends_the_stage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\(2 bad samples, wanted at most data\.bad_samples=1\)$"):
        run(damaged_job(tmp_path, bad_samples=1), hooks=Recorded())


def test_how_many_may_be_bad_is_not_part_of_what_a_run_is(tmp_path: Path) -> None:
    some, none = (recipe_of(tmp_path, bad_samples=count) for count in (3, 0))
    assert recipe_digest(some) == recipe_digest(none)

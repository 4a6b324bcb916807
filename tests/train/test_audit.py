"""What a stage was trained on is known to the clip, whatever became of its gangs."""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from orchestrator.data.digits_shards import ensure_digits
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import RushesError, UnavailableError, UserError
from orchestrator.launch.audit import StageAudit, audit_run, print_audit
from orchestrator.recipe.digest import recipe_digest, recipe_tree
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.folder import FolderStore
from orchestrator.train.job import StageJob
from orchestrator.train.worker import run
from tests.groups import leave_group
from tests.numerics.gang import Gang
from tests.tiny import tiny_tree
from tests.train.workers import Recorded, run_rank

pytestmark = pytest.mark.usefixtures("one_process")

STEPS = 9  # an epoch and a half


class Killed(Recorded):
    """Hooks of a process that is lost at a step."""

    def __init__(self, *, at: int) -> None:
        super().__init__()
        self._left = at

    def should_stop(self) -> bool:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt
        return False


def recipe_of(folder: Path, *, workers: int = 0, audit: bool = True) -> Recipe:
    tree = tiny_tree(folder, workers=workers)
    first = tree["stages"][0]
    first["train"]["steps"] = STEPS
    if workers:
        first["compute"]["min_workers"] = 1
    tree["data"]["audit"] = audit
    return parse_recipe(tree | {"stages": [first]}, origin="audit")


@pytest.fixture
def job(tmp_path: Path) -> StageJob:
    recipe = recipe_of(tmp_path)
    ensure_sources(recipe, on_clips=lambda *_: None)
    return started(recipe, tmp_path)


def started(recipe: Recipe, folder: Path) -> StageJob:
    run_folder = folder / "run"
    run_folder.mkdir(exist_ok=True)
    (run_folder / "recipe.json").write_text(json.dumps({"recipe": recipe_tree(recipe)}))
    return StageJob(recipe=recipe, stage="autoencoder", run=str(run_folder), attempt=1)


def audited(job: StageJob) -> StageAudit:
    (found,) = audit_run(job.run, on_steps=lambda *_: None)
    return found


def shown(found: StageAudit) -> str:
    console = Console(record=True, width=100)
    print_audit([found], console=console)
    return console.export_text()


def test_killed_stopped_and_resumed_at_two_ranks(job: StageJob, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(job, hooks=Killed(at=4))
    leave_group()
    assert run(job, hooks=Recorded(stop_after=3)).status == "stopped"
    leave_group()
    gang = Gang(world_size=2, folder=tmp_path)
    try:
        wide = started(recipe_of(tmp_path, workers=2), tmp_path)
        gang.run(run_rank, job=wide.model_dump_json())
    finally:
        gang.close()
    found = audited(job)
    assert found.report.faults == []
    assert (found.start, found.stop, found.readers) == (0, STEPS, [1, 2])
    whole, rest = found.report.epochs
    assert (whole.clips, whole.used, whole.is_whole) == (24, 24, True)
    assert rest.used == STEPS * 4 - 24
    assert shown(found).splitlines() == [
        "autoencoder: 9 steps on 1, then 2 reader(s), 36 clips",
        "  9x32x32: 1 whole epoch(s) of 24 clips, 12 of 24 clips of epoch 2",
    ]


def test_rows_of_a_save_that_is_lost_go_with_the_next(
    job: StageJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = FolderStore.put

    def away(self: FolderStore, key: str, data: bytes | memoryview) -> None:
        if "audit/step-00000004" in key:
            raise UnavailableError("the store is away")
        put(self, key, data)

    monkeypatch.setattr(FolderStore, "put", away)
    assert run(job, hooks=Recorded()).status == "done"
    assert audited(job).report.faults == []


def test_an_audit_may_begin_and_end_while_a_run_goes_on(job: StageJob, tmp_path: Path) -> None:
    silent = started(recipe_of(tmp_path, audit=False), tmp_path)
    assert recipe_digest(silent.recipe) == recipe_digest(job.recipe)
    run(silent, hooks=Recorded(stop_after=3))
    leave_group()
    with pytest.raises(UserError, match=r"wanted a run with data\.audit: true"):
        audit_run(job.run, on_steps=lambda *_: None)
    assert run(job, hooks=Recorded()).status == "done"
    found = audited(job)
    assert (found.start, found.report.steps, found.report.faults) == (3, STEPS - 3, [])
    assert "6 steps from step 3 on" in shown(found)


def test_what_was_tampered_with_is_found(job: StageJob) -> None:
    run(job, hooks=Recorded())
    pieces = sorted(Path(job.run).glob("stages/autoencoder/audit/*/*.jsonl"))
    first = pieces[0].read_text()
    key = first.partition('"keys":["')[2].partition('"')[0]
    other = pieces[1].read_text().partition('"keys":["')[2].partition('"')[0]
    pieces[0].write_text(first.replace(f'"{key}"', f'"{other}"'))
    found = audited(job)
    (again, never) = found.report.faults
    assert again.endswith(f"came more than once: {other}")
    assert never.endswith(f"never came, wanted 0: {key}")
    with pytest.raises(RushesError, match="2 fault"):
        shown(found)
    pieces[0].write_text(first[:-20])
    with pytest.raises(UserError, match="damaged"):
        audited(job)
    pieces[0].unlink()
    with pytest.raises(UserError, match="wanted the audit of the steps up to 2"):
        audited(job)


def test_other_clips_are_refused(job: StageJob, tmp_path: Path) -> None:
    run(job, hooks=Recorded())
    digits: Any = job.recipe.data.train.digits
    other = digits.model_copy(update={"seed": 7})
    place = tmp_path / "clips/train"
    place.rename(tmp_path / "before")
    ensure_digits(other, split="train", uri=str(place), on_clips=lambda *_: None, field="digits")
    with pytest.raises(UserError, match="as when stage autoencoder was trained"):
        audited(job)

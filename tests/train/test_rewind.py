"""A stage whose batches ruin it goes back, leaves them out, and ends as if they had never been."""

import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.data.sources import ensure_sources
from orchestrator.errors import RushesError
from orchestrator.train.job import StageJob
from orchestrator.train.worker import run
from tests.tiny import tiny_recipe
from tests.train.ill import (
    checkpoints,
    curve,
    evidence,
    ill,
    ill_job,
    leave_out,
    nan_at,
    weights,
)
from tests.train.workers import Recorded

pytestmark = pytest.mark.usefixtures("one_process")

BAD = (5, 6)  # positions
BUDGET = {"budget": 1, "window": 6}


class KilledError(Exception):
    """What a test ends a worker with."""


class KilledAtNote(Recorded):
    """Hooks that end the worker when it says something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def event(self, event: dict[str, Any]) -> None:
        super().event(event)
        if self._text in event.get("text", ""):
            raise KilledError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rewind")
    ensure_sources(tiny_recipe(folder), on_clips=lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> StageJob:
    """A run whose order never had the bad batches."""
    job = ill_job(folder, run_name="reference", **BUDGET)
    leave_out(job, list(BAD), rewinds=1)
    with ill() as read:
        assert run(job, hooks=Recorded()).status == "done"
    assert read == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    return job


def assert_same(job: StageJob, reference: StageJob) -> None:
    assert curve(job) == curve(reference)
    assert weights(job) == weights(reference)


def notes(hooks: Recorded) -> list[str]:
    return [event["text"] for event in hooks.events if event["kind"] == "note"]


def test_repeated_refusals_lead_back_and_their_batches_are_left_out(
    folder: Path, reference: StageJob
) -> None:
    job = ill_job(folder, run_name="rewound", save={"keep": 9}, **BUDGET)
    hooks = Recorded()
    with ill(times=nan_at(*BAD)) as read:
        assert run(job, hooks=hooks).status == "done"
    # Step 6 is the first bad one; the checkpoint of step 6 knows, so it goes back to that of 4.
    assert read == [0, 1, 2, 3, 4, 5, 6, 4, 7, 8, 9, 10, 11]
    assert_same(job, reference)
    assert checkpoints(job, "PASSED_OVER") == [6]
    assert checkpoints(job, "COMMIT") == [2, 4, 6, 8, 10]
    rows = evidence(job)
    assert [(row["kind"], row["step"]) for row in rows] == [
        ("skipped", 6),
        ("skipped", 7),
        ("rewind", 7),
    ]
    first = rows[0]
    assert (first["position"], first["reason"], first["lr"] > 0) == (5, "loss", True)
    assert first["losses"][0]["autoencoder"] == "nan"
    assert first["losses"][0]["discriminator"] > 0
    assert first["networks"]["discriminator"]["applied"] is False
    assert len(first["keys"][0]) == 4
    assert (rows[2]["to"], rows[2]["positions"], rows[2]["steps"]) == (4, [5, 6], [6, 7])
    said = notes(hooks)
    assert any(
        "step 6 was not applied: a loss was not finite (1 of at most 1" in one for one in said
    )
    (back,) = [one for one in said if "back from step 7 to the checkpoint of step 4" in one]
    assert "(rewind 1 of at most 5); evidence in" in back
    artifacts = [event["uri"] for event in hooks.events if event["kind"] == "artifact"]
    assert artifacts == [f"{job.run}/{job.folder}/health.jsonl"]


@pytest.mark.parametrize("text", ["put aside checkpoint of step 6", "back from step 7"])
def test_a_run_that_is_killed_while_it_goes_back_ends_the_same(
    folder: Path, reference: StageJob, text: str
) -> None:
    job = ill_job(folder, run_name=f"killed-{text.split()[0]}", **BUDGET)
    with ill(times=nan_at(*BAD)):
        with pytest.raises(KilledError):
            run(job, hooks=KilledAtNote(text))
        assert run(job, hooks=Recorded()).status == "done"
    assert_same(job, reference)
    assert [row["kind"] for row in evidence(job)] == ["skipped", "skipped", "rewind"]


def test_a_stop_comes_before_a_rewind_which_the_next_start_makes(
    folder: Path, reference: StageJob
) -> None:
    job = ill_job(folder, run_name="stopped", **BUDGET)
    with ill(times=nan_at(*BAD)) as read:
        assert run(job, hooks=Recorded(stop_after=7)).step == 7
        assert run(job, hooks=Recorded()).status == "done"
    assert read == [0, 1, 2, 3, 4, 5, 6, 7, 4, 7, 8, 9, 10, 11]
    assert_same(job, reference)


def test_an_older_checkpoint_than_the_rewinds_knows_what_is_left_out(
    folder: Path, reference: StageJob
) -> None:
    job = ill_job(folder, run_name="older", **BUDGET)
    with ill(times=nan_at(*BAD)):
        with pytest.raises(KilledError):
            run(job, hooks=KilledAtNote("back from step 7"))
        (Path(job.run) / job.folder / "checkpoints/step-00000004/index.json").write_text("{}")
        assert run(job, hooks=Recorded()).status == "done"
    assert_same(job, reference)


def test_a_loss_that_is_not_finite_is_refused_though_its_gradient_is(folder: Path) -> None:
    job = ill_job(folder, run_name="constant", steps=6)
    with ill(plus=nan_at(3)):
        run(job, hooks=Recorded())
    (row,) = evidence(job)
    assert (row["kind"], row["step"], row["reason"]) == ("skipped", 4, "loss")
    assert [one["skipped_steps"] for one in curve(job)] == [0, 0, 0, 1, 1, 1]
    assert [one["spikes"] for one in curve(job)] == [0] * 6


def test_a_spike_is_refused_and_told_of_with_its_limit(folder: Path) -> None:
    wild, poisoned = (
        ill_job(folder, run_name=name, steps=9, window=6, budget=5) for name in ("spike", "nan")
    )
    hooks = Recorded()
    with ill(times={7: 1e7}):
        run(wild, hooks=hooks)
    with ill(times=nan_at(7)):
        run(poisoned, hooks=Recorded())
    (row,) = evidence(wild)
    assert (row["step"], row["reason"]) == (8, "spike")
    network = row["networks"]["autoencoder"]
    assert network["norm"] > network["limit"] > 0
    assert row["networks"]["discriminator"] == {
        "norm": row["networks"]["discriminator"]["norm"],
        "limit": None,
        "applied": False,
    }
    assert curve(wild)[-1]["spikes"] == 1
    assert curve(wild)[-1]["grad_norm/autoencoder"] == curve(poisoned)[-1]["grad_norm/autoencoder"]
    assert weights(wild) == weights(poisoned)
    (said,) = [one for one in notes(hooks) if "not applied" in one]
    assert "step 8 was not applied: gradient norm of autoencoder" in said


def test_the_last_healthy_checkpoint_outlives_newer_ones_that_are_not(folder: Path) -> None:
    job = ill_job(folder, run_name="kept", steps=9, save={"every_steps": 1, "keep": 2})
    with ill(times=nan_at(4)):
        run(job, hooks=Recorded())
    assert checkpoints(job, "COMMIT") == [4, 8, 9]


def test_a_loss_that_stays_high_leads_back_to_before_it_rose(folder: Path) -> None:
    job, straight = (
        ill_job(folder, run_name=name, steps=20, patience=4) for name in ("high", "never-high")
    )
    left_out = [13, 14, 15, 16, 17]  # one before it rose
    with ill(logged=dict.fromkeys(range(14, 18), 100.0)) as read:
        run(job, hooks=Recorded())
    assert read == [*range(18), 12, *range(18, 25)]
    leave_out(straight, left_out, rewinds=1)
    run(straight, hooks=Recorded())
    assert_same(job, straight)
    (row,) = evidence(job)
    assert (row["kind"], row["to"], row["positions"]) == ("rewind", 12, left_out)
    assert row["reason"].startswith("the loss has stayed above 5.0 times its level for 4 steps")


@pytest.mark.parametrize("patience", [4, 6])
def test_the_checkpoint_before_a_loss_rose_is_kept_whatever_else_goes(
    folder: Path, patience: int
) -> None:
    name = f"kept-{patience}"
    job = ill_job(folder, run_name=name, steps=24, save={"keep": 1}, patience=patience)
    with ill(logged=dict.fromkeys(range(14, 14 + patience), 100.0)) as read:
        assert run(job, hooks=Recorded()).status == "done"
    assert read[14 + patience] == 12
    (row,) = evidence(job)
    assert (row["kind"], row["to"]) == ("rewind", 12)


def test_refused_steps_now_and_then_do_not_make_a_rewind_longer(folder: Path) -> None:
    job = ill_job(folder, run_name="now-and-then", steps=24, patience=4, window=6, budget=5)
    with ill(times=nan_at(9, 13), logged=dict.fromkeys(range(14, 18), 100.0)):
        assert run(job, hooks=Recorded()).status == "done"
    kinds = [(row["kind"], row.get("to")) for row in evidence(job)]
    assert kinds == [("skipped", None), ("skipped", None), ("rewind", 12)]


def test_a_stage_that_goes_wrong_everywhere_gives_up_with_the_evidence(folder: Path) -> None:
    job = ill_job(folder, run_name="given-up", max_rewinds=2, **BUDGET)
    hooks = Recorded()
    with ill(times=nan_at(*range(5, 99))) as read, pytest.raises(RushesError) as told:
        run(job, hooks=hooks)
    assert told.value.exit_code == 1
    assert str(told.value) == (
        "stage autoencoder: at step 7, 2 of 6 steps were not applied (train.health.budget=1), "
        "after 2 rewinds (train.health.max_rewinds=2): evidence in "
        f"{job.run}/{job.folder}/health.jsonl; "
        "lower train.optim.lr (seen 0.001), take out the clips named there, or widen train.health"
    )
    assert read == [0, 1, 2, 3, 4, 5, 6, 4, 7, 8, 4, 9, 10]
    kinds = [row["kind"] for row in evidence(job)]
    assert kinds == [*("skipped", "skipped", "rewind") * 2, "skipped", "skipped", "gave_up"]
    more = ill_job(folder, run_name="given-up", max_rewinds=3, **BUDGET)
    with ill(times=nan_at(*range(5, 11))):
        assert run(more, hooks=Recorded()).status == "done"
    state = json.loads((Path(job.run) / job.folder / "health.json").read_text())
    assert state == {"rewinds": 3, "left_out": [5, 6, 7, 8, 9, 10]}


def test_a_stage_that_goes_wrong_before_its_first_checkpoint_says_so(folder: Path) -> None:
    job = ill_job(folder, run_name="hopeless", **BUDGET)
    with (
        ill(times=nan_at(*range(99))),
        pytest.raises(RushesError, match="with no healthy checkpoint to go back to"),
    ):
        run(job, hooks=Recorded())
    assert [row["kind"] for row in evidence(job)] == ["skipped", "skipped", "gave_up"]

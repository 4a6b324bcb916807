"""Saves come when they are due, at the same steps on every rank and after every restart."""

import json
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.data.sources import ensure_sources
from orchestrator.plan.interval import (
    LONGEST_S,
    choose_every_steps,
    mean_time_between_failures_s,
)
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.train import Save
from orchestrator.train.worker import run
from tests.numerics.gang import Gang
from tests.tiny import STEPS, tiny_tree
from tests.train.checkpoints import ALONE
from tests.train.paces import AUTO, LOG_EVERY, Steps, save_at_each_ranks_own_cost
from tests.train.workers import Recorded, job_of

STAGE = "autoencoder"


def test_steps_to_be_kept_are_saved_besides_fixed_ones() -> None:
    save = Save(every_steps=20, keep_every_steps=25)
    steps = Steps(ALONE, step_s=1.0, blocked_s=0.1, save=save)
    steps.resume(None, step=0, gangs=1)
    steps.run(until=100)
    assert steps.saved_at == [20, 25, 40, 50, 60, 75, 80, 100]


def test_fixed_steps_are_multiples() -> None:
    steps = Steps(ALONE, step_s=1.0, blocked_s=0.1, save=Save(every_steps=7))
    steps.resume(None, step=0, gangs=1)
    steps.run(until=30)
    assert steps.saved_at == [7, 14, 21, 28]
    assert steps.pace.metrics() == {"save/every_steps": 7.0, "save/blocked_s": pytest.approx(0.1)}


def test_first_save_is_early_and_the_next_by_what_it_cost() -> None:
    steps = Steps(ALONE, step_s=1.0, blocked_s=0.01)
    steps.resume(None, step=0, gangs=1)
    assert steps.pace.metrics() == {"save/every_steps": LOG_EVERY, "save/blocked_s": 0.0}
    steps.run(until=2500)
    mtbf_s = mean_time_between_failures_s(failures=0, trained_s=0.0, ranks=1)
    wanted = choose_every_steps(cost_s=0.01, write_s=4.0, mtbf_s=mtbf_s, step_s=1.0)
    assert LOG_EVERY < wanted < LONGEST_S
    assert steps.saved_at[0] == LOG_EVERY
    assert steps.saved_at[1:4] == [LOG_EVERY + wanted * number for number in (1, 2, 3)]


def test_slower_steps_are_a_cost_too() -> None:
    slowed = Steps(ALONE, step_s=1.0, blocked_s=0.01, slower=1.5)
    slowed.resume(None, step=0, gangs=4)
    slowed.run(until=20)
    costs_s = slowed.pace.state_dict(stopped=False)["costs_s"]
    assert costs_s == [pytest.approx(0.01 + 4 * 0.5)]


@pytest.mark.parametrize(("slower", "rests"), [(1.0, False), (1.01, False), (1.03, True)])
def test_the_writer_rests_where_it_makes_steps_slower(slower: float, rests: bool) -> None:
    steps = Steps(ALONE, step_s=1.0, blocked_s=1.0, slower=slower)
    steps.resume(None, step=0, gangs=1)
    steps.run(until=LOG_EVERY + 2)
    assert steps.saves.is_under_way
    assert steps.saves.rests is rests


def test_no_save_begins_while_one_is_written() -> None:
    steps = Steps(ALONE, step_s=1.0, blocked_s=0.01, write_steps=35)
    steps.resume(None, step=0, gangs=1)
    steps.run(until=44)
    assert steps.saved_at == [LOG_EVERY]


def test_steps_that_are_to_be_kept_are_saved() -> None:
    steps = Steps(
        ALONE, step_s=1.0, blocked_s=1.0, save=AUTO.model_copy(update={"keep_every_steps": 500})
    )
    steps.resume(None, step=0, gangs=1)
    steps.run(until=1500)
    assert {500, 1000, 1500} <= set(steps.saved_at)


def state(**changes: Any) -> dict[str, Any]:
    return {
        "every_steps": 33,
        "costs_s": [0.5],
        "writes_s": [2.0],
        "trained_s": 7200.0,
        "failures": 2,
        "gangs": 5,
        "stopped": False,
    } | changes


@pytest.mark.parametrize(
    ("saved", "gangs", "failures"),
    [
        (state(), 6, 3),  # the gang that saved was lost
        (state(), 8, 5),  # and two more, before they saved
        (state(stopped=True), 6, 2),  # it had been asked to stop
        (state(stopped=True), 7, 3),
        (None, 9, 0),  # of an earlier version, or imported: nothing is known
    ],
)
def test_gangs_that_were_not_asked_to_end_are_failures(
    saved: dict[str, Any] | None, gangs: int, failures: int
) -> None:
    steps = Steps(ALONE, step_s=1.0, blocked_s=0.1)
    steps.resume(saved, step=100, gangs=gangs)
    assert steps.pace.state_dict(stopped=False)["failures"] == failures


def test_gangs_before_the_first_checkpoint_are_failures() -> None:
    steps = Steps(ALONE, step_s=1.0, blocked_s=0.1)
    steps.resume(None, step=0, gangs=3)
    assert steps.pace.state_dict(stopped=False)["failures"] == 2


def test_a_resumed_stage_goes_on_with_what_was_chosen() -> None:
    steps = Steps(ALONE, step_s=1.0, blocked_s=0.1)
    steps.resume(state(), step=100, gangs=6)
    steps.run(until=140)
    assert steps.saved_at == [133]
    assert steps.pace.state_dict(stopped=True)["trained_s"] == 7200.0 + 40 + 0.1


def test_failures_bring_saves_closer() -> None:
    chosen: list[int] = []
    for gangs in (1, 3, 30):
        steps = Steps(ALONE, step_s=1.0, blocked_s=1.0)
        steps.resume(None, step=0, gangs=gangs)
        steps.run(until=20)
        chosen.append(int(steps.pace.metrics()["save/every_steps"]))
    assert chosen == sorted(chosen, reverse=True)
    assert len(set(chosen)) == 3


@pytest.mark.slow
def test_ranks_that_measure_different_costs_save_at_the_same_steps(tmp_path: Path) -> None:
    with closing(Gang(world_size=2, folder=tmp_path)) as gang:
        first, second = gang.run(save_at_each_ranks_own_cost)
    assert first == second
    assert len(first) > 3


def recipe_of(folder: Path, *, every_steps: int | str) -> Recipe:
    tree = tiny_tree(folder)
    tree["stages"] = tree["stages"][:1]
    tree["stages"][0]["save"] = {"every_steps": every_steps, "keep": 9}
    return parse_recipe(tree, origin="tiny")


class Patient(Recorded):
    """Hooks under which a save is written after one step and committed after two."""

    def event(self, event: dict[str, Any]) -> None:
        super().event(event)
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                thread.join()


class Crashing(Patient):
    """Hooks that break the worker when a step is logged."""

    def event(self, event: dict[str, Any]) -> None:
        super().event(event)
        if event["kind"] == "metrics" and event["step"] == 4:
            raise OSError("the machine is gone")


@pytest.mark.usefixtures("one_process")
def test_a_stage_trains_the_same_however_often_it_saves_and_fails(tmp_path: Path) -> None:
    auto, fixed = (recipe_of(tmp_path, every_steps=every) for every in ("auto", 2))
    ensure_sources(auto, on_clips=lambda *_: None)
    assert run(job_of(fixed, STAGE, run_uri=f"{tmp_path}/fixed"), hooks=Recorded()).step == STEPS
    job = job_of(auto, STAGE, run_uri=f"{tmp_path}/auto")
    with pytest.raises(OSError, match="the machine is gone"):
        run(job, hooks=Crashing())
    assert run(job, hooks=Patient(stop_after=2)).step == 3  # goes on from step 1
    hooks = Patient()
    assert run(job, hooks=hooks).status == "done"
    folder = tmp_path / "auto" / "stages" / STAGE
    paces = {
        int(path.parent.name.removeprefix("step-")): json.loads(path.read_text())["extra"]["pace"]
        for path in folder.glob("checkpoints/*/index.json")
    }
    # The first logged step, the same after a crash that came before there was more to choose by,
    # the stop, the end.
    assert sorted(paces) == [1, 2, 3, STEPS]
    found = [paces[step] for step in sorted(paces)]
    assert [one["failures"] for one in found] == [0, 1, 1, 1]
    assert [one["stopped"] for one in found] == [False, False, True, False]
    trained_s = [one["trained_s"] for one in found]
    assert trained_s == sorted(trained_s)
    assert trained_s[0] > 0.0
    (logged,) = [one["values"] for one in hooks.events if one.get("step") == 5 and "values" in one]
    assert logged["save/every_steps"] > STEPS
    weights = (
        load_file(tmp_path / name / "stages" / STAGE / "weights" / "ema.safetensors")
        for name in ("auto", "fixed")
    )
    for (key, ours), theirs in zip(*(one.items() for one in weights), strict=True):
        assert torch.equal(ours, theirs[1]), key

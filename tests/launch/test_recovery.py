"""What a user reads of a gang that was lost and started again."""

from typing import Any

import pytest

from orchestrator.launch.recovery import Recoveries


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def recoveries(notes: list[str]) -> Recoveries:
    return Recoveries(tell=lambda event: notes.append(event["text"]))


def step(number: int, *, at_s: float) -> dict[str, Any]:
    return {"kind": "metrics", "stage": "base", "step": number, "time_ms": int(1000 * at_s)}


def gang(what: str, *, at_s: float, **values: bool) -> dict[str, Any]:
    return {"kind": "gang", "stage": "base", "what": what, "time": at_s} | values


def moment(name: str, *, at_s: float, **values: int) -> dict[str, Any]:
    return {"kind": "moment", "stage": "base", "moment": name, "time": at_s} | values


def restart(*, at_s: float, resumed: int) -> list[dict[str, Any]]:
    return [
        gang("gone", at_s=at_s),
        gang("started", at_s=at_s + 1),
        moment("begun", at_s=at_s + 11),
        moment("loaded", at_s=at_s + 11.5, step=resumed),
    ]


def test_a_recovery_is_told_part_by_part(recoveries: Recoveries, notes: list[str]) -> None:
    story = [
        *(moment("begun", at_s=0), moment("loaded", at_s=1, step=0)),
        *(step(8, at_s=10), step(9, at_s=11)),
        *(gang("ending", at_s=13, failed=True), *restart(at_s=13.5, resumed=6)),
        *(step(7, at_s=26), step(8, at_s=27), step(9, at_s=28)),
    ]
    for event in story:
        recoveries.event(event)
    assert not notes
    recoveries.event(step(10, at_s=29))
    assert notes == [
        "lost workers at step 9, beyond it again after 18.0 s: detect 2.0, stop 0.5, "
        "reschedule 1.0, start 10.0, load 0.5, replay 4.0 s (3 steps repeated)"
    ]
    recoveries.event(step(11, at_s=30))
    assert len(notes) == 1


def test_a_gang_lost_on_its_way_back_is_the_same_recovery(
    recoveries: Recoveries, notes: list[str]
) -> None:
    story = [
        *(step(3, at_s=1), gang("ending", at_s=2, failed=True), *restart(at_s=3, resumed=2)),
        *(gang("ending", at_s=20, failed=True), *restart(at_s=23, resumed=2), step(4, at_s=40)),
    ]
    for event in story:
        recoveries.event(event)
    (note,) = notes
    assert note.startswith("lost workers at step 3, beyond it again after 39.0 s: detect 1.0, stop")
    assert "stop 21.0, reschedule 1.0, start 10.0" in note


def test_a_gang_that_ends_or_is_resized_has_not_been_lost(
    recoveries: Recoveries, notes: list[str]
) -> None:
    for event in [step(1, at_s=1), *restart(at_s=2, resumed=1), step(2, at_s=20)]:
        recoveries.event(event)
    assert not notes


def test_a_step_that_was_saved_and_never_heard_of_is_not_repeated(
    recoveries: Recoveries, notes: list[str]
) -> None:
    story = [
        *(step(9, at_s=1), gang("ending", at_s=2, failed=True), *restart(at_s=3, resumed=10)),
        *(step(10, at_s=16), step(11, at_s=17)),
    ]
    for event in story:
        recoveries.event(event)
    (note,) = notes
    assert note.startswith("lost workers at step 10, ")
    assert note.endswith("replay 2.5 s (0 steps repeated)")

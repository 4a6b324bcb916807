"""A run that loses a node, told to the real ledger, and the simulation of its failures."""

from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.replay import Setting, failures_of, replay, work_of
from orchestrator.cascade.goodput_rows import Row
from tests.beats import FakeRank, gang, gang_end, ledger_of, stage_end, stage_start

# A step takes a second, a save half of one, a start ten, and a restart seven.
SETTING = Setting(steps=100, save_every=10, commit_s=0.2, ranks_per_node=2, sizes=(2, 4))
BACK_S = 20.0  # from the loss of the node


def beats(
    token: str, *, ranks: int, began: float, start_s: float, steps: range, saves: int, more_s: float
) -> Iterator[dict[str, Any]]:
    """What every rank of a gang tells: at its first step, and at the last one that it did."""
    for number in range(ranks):
        rank = FakeRank(started=began, token=token, rank=number, ranks=ranks)
        yield rank.spends({"start_up": start_s, "compute": 0.0}, step=steps.start)
        spans = {"save_blocked": 0.5 * saves, "compute": len(steps) + more_s}
        yield rank.spends(spans, step=steps.stop)


def undisturbed() -> list[Row]:
    return ledger_of(
        stage_start(0.0, workers=4),
        gang(0.0, workers=4),
        *beats("a", ranks=4, began=0.0, start_s=10.0, steps=range(100), saves=10, more_s=0.0),
        gang_end(115.0, failed=False),
        stage_end(115.0),
    )


def disturbed(*, kept: int = 30) -> list[Row]:
    """Two of four ranks fall silent at 44.8, in step 34, which is seen at 48.3.

    Two are at work from 55.3 on, and go on from what was kept. The node is back at 64.8; after two
    looks, ten seconds apart, they save at 85.3 and four go on with nothing repeated.
    """
    second, grown = range(kept, kept + 29), 86.0
    left = 100 - second.stop
    saves = -(-left // 10)
    end = grown + 7.0 + left + 0.5 * saves
    return ledger_of(
        stage_start(0.0, workers=4),
        gang(0.0, workers=4),
        *beats("a", ranks=4, began=0.0, start_s=10.0, steps=range(33), saves=3, more_s=0.3),
        gang_end(48.3),
        gang(48.3, workers=2),
        *beats("b", ranks=2, began=48.3, start_s=7.0, steps=second, saves=3, more_s=0.2),
        gang_end(grown, failed=False),
        gang(grown, workers=4),
        *beats(
            "c",
            ranks=4,
            began=grown,
            start_s=7.0,
            steps=range(second.stop, 100),
            saves=saves,
            more_s=0.0,
        ),
        gang_end(end, failed=False),
        stage_end(end),
    )


def test_a_gang_that_makes_room_for_a_larger_one_has_not_failed() -> None:
    failed = failures_of(disturbed())
    assert failed.times_s == pytest.approx((44.8,))
    assert failed.detect_s == pytest.approx(3.5)
    assert failed.restart_s == pytest.approx(7.0, abs=0.2)


def test_the_simulation_is_told_what_the_undisturbed_run_took() -> None:
    failed = failures_of(disturbed())
    work = work_of(undisturbed(), setting=SETTING, failed=failed, back_s=BACK_S)
    assert dict(work.gangs) == pytest.approx({1: 1.0, 2: 1.0})
    assert work.start_s == pytest.approx(10.0)
    assert work.save_s == pytest.approx(0.5)
    assert work.replace_s == BACK_S


def test_a_run_that_does_as_the_simulation_says_has_its_goodput() -> None:
    beside, lived = replay(undisturbed(), disturbed(), setting=SETTING, back_s=BACK_S)
    assert lived.failures == 1
    # The ledger calls useful what was done of the step that was cut off, the simulation does not.
    cut_off = 0.004
    assert [one.real for one in beside] == pytest.approx(
        [one.simulated for one in beside], abs=cut_off
    )
    assert all(one.is_near for one in beside)


def test_a_run_that_loses_its_saves_is_not_near_its_simulation() -> None:
    straight, broken = replay(undisturbed(), disturbed(kept=0), setting=SETTING, back_s=BACK_S)[0]
    assert straight.is_near
    assert not broken.is_near
    assert broken.points > 3.0

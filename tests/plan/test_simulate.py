"""Simulated runs among failures: against hand-made ones, closed forms, and a real one."""

from dataclasses import replace
from math import inf, sqrt

import pytest

from orchestrator.plan.averages import Expected, together
from orchestrator.plan.interval import daly_interval_s
from orchestrator.plan.simulate import Lived, Work, live, recorded, simulate

WORK = Work(
    steps=100,
    gangs=((4, 1.0),),
    save_every=10,
    save_s=0.5,
    commit_s=2.0,
    start_s=5.0,
    restart_s=7.0,
    detect_s=3.0,
    replace_s=20.0,
)
DAY = 86_400.0


def parts(run: Lived) -> dict[str, float]:
    """Seconds of four nodes."""
    return {
        "seconds": run.seconds,
        "useful": run.useful_s / 4,
        "saving": run.saving_s / 4,
        "repeated": run.repeated_s / 4,
        "down": run.down_s / 4,
    }


def test_without_failures_all_but_start_and_saves_is_goodput() -> None:
    run = live(replace(WORK, start_s=0.0), recorded([]))
    assert run.goodput == pytest.approx(100 / 105)
    assert run.seconds == pytest.approx(105.0)


def test_a_failure_repeats_what_came_after_the_last_commit() -> None:
    """It trains from 5 on; 20 steps and two saves last to 26, the second commit to 28.

    At 30.3 four more steps are done, and 0.3 of one. That is seen at 33.3; a node comes at 50.3,
    and 7 seconds later steps 21 to 100 begin, the first four of them again.
    """
    run = live(WORK, recorded([30.3]))
    assert run.failures == 1
    assert parts(run) == pytest.approx(
        {
            "seconds": 50.3 + 7.0 + 80.0 + 8 * 0.5,
            "useful": 100.0,
            "saving": 10 * 0.5,
            "repeated": 4.3,
            "down": 5.0 + 3.0 + 17.0 + 7.0,
        }
    )


def test_a_failure_before_the_commit_goes_back_one_save_further() -> None:
    run = live(WORK, recorded([27.0]))  # 21 steps done, the second save under way
    assert parts(run)["repeated"] == pytest.approx(11.0)


def test_an_elastic_gang_goes_on_smaller_and_grows_without_repeating() -> None:
    """Two of four nodes from 40.3 to 70.3, when both looks after the return at 50.3 are over."""
    elastic = replace(WORK, gangs=((2, 2.0), (4, 1.0)))
    run = live(elastic, recorded([30.3]))
    # 33.3: two nodes; 40.3: steps 21 ...; 10 steps and a save by 60.8, 4 more of 2 s by 68.8.
    assert run.failures == 1
    first_s, grown_s = 70.3, 70.3 + 0.5 + 2.0 + 7.0
    left = 100 - 20 - 14
    assert run.seconds == pytest.approx(grown_s + left * 1.0 + 7 * 0.5)
    assert run.useful_s == pytest.approx(100 * 4)  # two nodes take twice as long
    assert run.node_s == pytest.approx(
        33.3 * 4 + (first_s + 2.5 - 33.3) * 2 + (run.seconds - first_s - 2.5) * 4
    )


def test_the_same_seed_gives_the_same_runs() -> None:
    def runs(seed: int) -> list[Lived]:
        return simulate(WORK, node_mttf_s=400.0, seed=seed, runs=8)

    assert runs(1) == runs(1)
    assert runs(1) != runs(2)


@pytest.mark.parametrize("mtbf_s", [DAY, DAY / 4])
def test_what_is_lost_is_what_young_says(mtbf_s: float) -> None:
    """Per second of work: a save's share, and per failure half an interval and what is down."""
    every_s, save_s, down_s = sqrt(2 * 30.0 * mtbf_s), 30.0, 120.0
    work = replace(
        WORK,
        steps=int(400 * mtbf_s / 10),
        gangs=((64, 10.0),),
        save_every=round(every_s / 10),
        save_s=save_s,
        commit_s=0.0,
        start_s=0.0,
        restart_s=down_s,
        detect_s=0.0,
        replace_s=0.0,
    )
    found = together(simulate(work, node_mttf_s=64 * mtbf_s, seed=0, runs=16), nodes=64)
    lost = save_s / every_s + (every_s / 2 + down_s) / mtbf_s
    assert 1 / found.goodput - 1 == pytest.approx(lost, rel=0.08)


def test_no_interval_is_better_than_dalys() -> None:
    mtbf_s, save_s = 3600.0, 60.0
    best_s = daly_interval_s(cost_s=save_s, mtbf_s=mtbf_s)

    def goodput(every_s: float) -> float:
        work = replace(
            WORK,
            steps=100_000,
            gangs=((8, 5.0),),
            save_every=round(every_s / 5),
            save_s=save_s,
            commit_s=0.0,
        )
        return together(simulate(work, node_mttf_s=8 * mtbf_s, seed=0, runs=8), nodes=8).goodput

    at_best = goodput(best_s)
    assert at_best > goodput(best_s / 2.5)
    assert at_best > goodput(best_s * 2.5)


def test_a_gang_that_fails_before_it_can_save_never_ends() -> None:
    (run,) = simulate(WORK, node_mttf_s=4.0, seed=0, runs=4)
    assert run.seconds == inf
    assert not together([run], nodes=4).ends


def test_a_run_of_many_failures_ends() -> None:
    """A gang of 20 seconds' life comes to a save in one of three."""
    (run,) = simulate(replace(WORK, steps=200_000), node_mttf_s=4 * 20.0, seed=0, runs=1)
    assert run.failures > 20_000
    assert run.seconds < inf


def test_a_long_run_goes_on_as_it_began() -> None:
    def said(*, steps: int, runs: int) -> Expected:
        work = replace(WORK, steps=steps)
        return together(simulate(work, node_mttf_s=800.0, seed=0, runs=runs), nodes=4)

    long, short = said(steps=40_000, runs=40), said(steps=10_000, runs=40)
    times = short.longer(4.0)
    assert times.goodput == pytest.approx(long.goodput, abs=0.005)
    assert times.seconds == pytest.approx(long.seconds, rel=0.01)
    assert times.failures == pytest.approx(long.failures, rel=0.02)
    assert times.high - times.low == pytest.approx(long.high - long.low, rel=0.3)
    assert times.high - times.low < 0.7 * (short.high - short.low)


def test_a_real_elastic_run_is_met_within_three_points() -> None:
    """The run of docs/reliability.md, "An elastic run beside an undisturbed one".

    What its own undisturbed twin says: 0.211 rank-hours of four ranks on two nodes, 88.4 % of them
    in 1,200 steps, 0.8 % in saves, 9.8 % before the first step. Two workers are no slower than
    four. The node is lost after 0.3 of the steps, five steps after a save; 12.4 seconds later the
    others are at work. It is back after 0.5 of them. Of its 0.197 rank-hours 1.4 % were detection,
    on four ranks, and 11.3 % restarts, of two and of four. Its goodput was 75.8 %.
    """
    whole_s = 0.211 * 3600 / 4
    step_s, start_s, save_s = 0.884 * whole_s / 1200, 0.098 * whole_s, 0.008 * whole_s
    lost_s = start_s + (0.3 * 1200 + 5) * step_s + 3 * save_s / 10
    work = Work(
        steps=1200,
        gangs=((1, step_s), (2, step_s)),
        save_every=120,
        save_s=save_s / 10,
        commit_s=0.2,
        start_s=start_s,
        restart_s=0.113 * 0.197 * 3600 / (2 + 4),
        detect_s=0.014 * 0.197 * 3600 / 4,
        replace_s=12.4 + 0.2 * 1200 * step_s,
    )
    assert live(work, recorded([])).goodput == pytest.approx(0.884, abs=0.03)
    assert live(work, recorded([lost_s])).goodput == pytest.approx(0.758, abs=0.03)

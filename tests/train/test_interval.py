"""How often to save, against the exact expectation and against simulated failures."""

import math

import numpy as np
import pytest

from orchestrator.plan.interval import (
    LONGEST_S,
    PRIOR_RANK_HOURS,
    choose_every_steps,
    daly_interval_s,
    mean_time_between_failures_s,
)

CASES = [  # cost of a save, time to write it, mean time between failures; seconds
    (0.05, 1.0, 600.0),
    (1.0, 5.0, 3600.0),
    (10.0, 30.0, 3600.0),
    (60.0, 60.0, 7200.0),
]


def expected_time(every_s: np.ndarray, *, cost_s: float, mtbf_s: float) -> np.ndarray:
    """Time per second of progress when failures come at any moment (Daly 2006, equation 20)."""
    return mtbf_s * np.expm1((every_s + cost_s) / mtbf_s) / every_s


@pytest.mark.parametrize(("cost_s", "write_s", "mtbf_s"), CASES)
def test_interval_is_the_best_by_the_exact_expectation(
    cost_s: float, write_s: float, mtbf_s: float
) -> None:
    del write_s
    every_s = np.geomspace(0.1, 20 * mtbf_s, 200_000)
    best_s = every_s[np.argmin(expected_time(every_s, cost_s=cost_s, mtbf_s=mtbf_s))]
    # Daly's series ends after two terms.
    assert daly_interval_s(cost_s=cost_s, mtbf_s=mtbf_s) == pytest.approx(best_s, rel=0.002)


def test_cheap_saves_are_as_far_apart_as_young_says() -> None:
    found_s = daly_interval_s(cost_s=0.1, mtbf_s=1e6)
    assert found_s == pytest.approx(math.sqrt(2 * 0.1 * 1e6), rel=1e-3)


def test_saves_that_cost_more_than_a_failure_are_as_far_apart_as_failures() -> None:
    assert daly_interval_s(cost_s=500.0, mtbf_s=100.0) == 100.0


def lost_share(
    every_s: float, *, cost_s: float, write_s: float, lives_s: np.ndarray, step_s: float
) -> float:
    """Part of the time that made no progress, over gangs that lived as long as ``lives_s``.

    A gang trains ``every_s``, is blocked for ``cost_s``, trains on; what it saved counts once it
    has been written for ``write_s``. Whole steps are trained.
    """
    steps = round(every_s / step_s)
    period_s = steps * step_s + cost_s
    kept = np.maximum(np.floor((lives_s - write_s) / period_s), 0.0)
    return 1.0 - kept.sum() * steps * step_s / lives_s.sum()


@pytest.mark.parametrize(("cost_s", "write_s", "mtbf_s"), CASES)
def test_no_interval_does_much_better_under_simulated_failures(
    cost_s: float, write_s: float, mtbf_s: float
) -> None:
    step_s = 0.5
    lives_s = np.random.default_rng(0).exponential(mtbf_s, size=200_000)
    steps = choose_every_steps(cost_s=cost_s, write_s=write_s, mtbf_s=mtbf_s, step_s=step_s)

    def lost(every_s: float) -> float:
        return lost_share(every_s, cost_s=cost_s, write_s=write_s, lives_s=lives_s, step_s=step_s)

    chosen = lost(steps * step_s)
    best = min(lost(every_s) for every_s in np.geomspace(step_s, 4 * mtbf_s, 300))
    assert chosen <= 1.02 * best
    # That is no accident of a flat curve.
    for factor in (1 / 4, 4):
        assert lost(factor * steps * step_s) > 1.1 * best


def test_a_save_never_waits_for_the_one_before() -> None:
    steps = choose_every_steps(cost_s=0.01, write_s=90.1, mtbf_s=3600.0, step_s=2.0)
    assert steps == 46


def test_saves_are_never_far_apart() -> None:
    steps = choose_every_steps(cost_s=60.0, write_s=60.0, mtbf_s=1e7, step_s=1.0)
    assert steps == LONGEST_S


def test_steps_that_take_longer_than_the_interval_are_all_saved() -> None:
    assert choose_every_steps(cost_s=0.1, write_s=1.0, mtbf_s=60.0, step_s=50.0) == 1


def test_failures_are_assumed_until_they_are_seen() -> None:
    a_month_s = 30 * 86400.0
    alone = mean_time_between_failures_s(failures=0, trained_s=0.0, ranks=1)
    assert alone == PRIOR_RANK_HOURS * 3600
    assert mean_time_between_failures_s(failures=0, trained_s=a_month_s, ranks=8) == alone / 8
    seen = mean_time_between_failures_s(failures=30, trained_s=a_month_s, ranks=8)
    assert seen == pytest.approx(86400, rel=0.002)
    assert mean_time_between_failures_s(failures=1, trained_s=3 * alone, ranks=1) == alone


def test_a_failure_at_once_does_not_mean_one_a_second() -> None:
    assert mean_time_between_failures_s(failures=1, trained_s=2.0, ranks=4) > 3600

"""When a step is refused and when training goes back, decided from numbers alone."""

import json
import math
import random
import statistics
from collections.abc import Sequence

import pytest

from orchestrator.recipe.health import Health
from orchestrator.train.health import LEAST_LOSSES, REFUSE, Monitor, Taken

NET = ("net",)


def feed(monitor: Monitor, norms: Sequence[float], *, start: int = 0) -> list[bool]:
    """Takes steps with these norms as an engine would; whether each was applied."""
    applied: list[bool] = []
    for step, norm in enumerate(norms, start):
        limit = monitor.limits(NET)["net"]
        fits = math.isfinite(norm) and norm <= limit
        monitor.took(step, {"net": Taken(norm=norm, limit=limit, applied=fits)})
        applied.append(fits)
    return applied


def of(**fields: object) -> Monitor:
    return Monitor(Health.model_validate({"window": 20, "loss_factor": 5.0, **fields}))


def test_a_norm_far_above_the_median_is_refused_and_counted() -> None:
    monitor = of(spike_factor=20.0)
    assert all(feed(monitor, [1.0] * 20))
    assert monitor.limits(NET) == {"net": 20.0}
    assert monitor.is_healthy
    assert feed(monitor, [20.0, 20.1, 1.0], start=20) == [True, False, True]
    assert monitor.num_refused == 1
    assert monitor.is_healthy


def test_the_limit_follows_the_median_of_the_last_window() -> None:
    norms = [random.Random(3).uniform(1.0, 1.5) / (1 + step) for step in range(60)]
    monitor = of(spike_factor=4.0)
    for step, norm in enumerate(norms):
        limit = monitor.limits(NET)["net"]
        seen = norms[max(0, step - 20) : step]
        if len(seen) < 10:
            assert limit == math.inf
        else:
            assert limit >= 4.0 * statistics.median_low(seen)
        assert feed(monitor, [norm], start=step) == [True]


def test_norms_that_scatter_by_nature_have_more_room() -> None:
    generator = random.Random(0)
    wide = [math.exp(generator.gauss(0.0, 1.3)) for _ in range(200)]
    monitor = of(window=200)
    assert all(feed(monitor, wide))
    ordered = sorted(wide)
    level, high = ordered[100], ordered[180]
    assert high / level > 3.0
    assert monitor.limits(NET)["net"] == pytest.approx(level * (high / level) ** 6)


def test_spikes_do_not_raise_the_level_that_they_are_measured_by() -> None:
    monitor = of()
    feed(monitor, [1.0] * 20)
    assert feed(monitor, [1e3] * 60, start=20) == [False] * 60


def test_a_gradient_of_zero_sets_no_level() -> None:
    monitor = of()
    assert all(feed(monitor, [0.0] * 20 + [3.0]))


def test_without_a_factor_only_what_is_not_finite_is_refused() -> None:
    monitor = of(spike_factor=None)
    assert feed(monitor, [1.0] * 20 + [1e9, math.nan, math.inf]) == [True] * 21 + [False] * 2


def test_levels_begin_anew_where_another_network_sets_in() -> None:
    monitor = of()
    feed(monitor, [1.0] * 20)
    assert monitor.limits(["net", "critic"]) == {"net": math.inf, "critic": math.inf}


def test_what_follows_another_networks_refusal_is_no_spike_of_its_own() -> None:
    assert Taken(norm=9.0, limit=3.0, applied=False).is_spike
    assert not Taken(norm=9.0, limit=REFUSE, applied=False).is_spike
    assert not Taken(norm=math.inf, limit=3.0, applied=False).is_spike
    assert not Taken(norm=1.0, limit=3.0, applied=True).is_spike


def test_more_refused_steps_than_the_budget_lead_back() -> None:
    monitor = of(budget=2)
    feed(monitor, [1.0] * 30 + [math.nan, 1.0, math.nan])
    assert monitor.verdict() is None
    feed(monitor, [math.inf], start=33)
    verdict = monitor.verdict()
    assert verdict is not None
    assert verdict.steps == (30, 32, 33)
    assert "3 of 20 steps were not applied (train.health.budget=2)" in verdict.reason


def test_refused_steps_that_lie_a_window_back_are_forgotten() -> None:
    monitor = of(budget=1)
    feed(monitor, [math.nan] + [1.0] * 19)
    assert monitor.num_refused == 1
    feed(monitor, [1.0, math.nan], start=20)
    assert monitor.verdict() is None
    assert monitor.num_refused == 1
    feed(monitor, [1.0] * 20, start=22)
    assert monitor.num_refused == 0


def log(monitor: Monitor, losses: Sequence[float], *, start: int, every: int = 10) -> int:
    """Logs windows after step ``start``; steps done then."""
    for loss in losses:
        start += every
        monitor.logged(start, loss=loss)
    return start


def test_a_loss_that_stays_high_leads_back_to_before_it_rose() -> None:
    monitor = of(patience=30)
    done = log(monitor, [1.0] * LEAST_LOSSES, start=0)
    done = log(monitor, [6.0, 7.0], start=done)
    assert monitor.verdict() is None
    assert not monitor.is_healthy
    done = log(monitor, [5.1], start=done)
    verdict = monitor.verdict()
    assert verdict is not None
    # Steps 100 to 129 are of the three high windows; the window before them counts too.
    assert verdict.steps == tuple(range(90, 130))
    assert "above 5.0 times its level for 30 steps (train.health.patience=30)" in verdict.reason


@pytest.mark.parametrize("factor", [5.0, None])
def test_no_verdict_goes_back_beyond_what_was_sound_before(factor: float | None) -> None:
    generator = random.Random(4)
    for _ in range(300):
        monitor = of(patience=generator.choice([1, 20, 50]), budget=2, loss_factor=factor)
        sound = 0
        for window in range(60):
            for step in range(10 * window, 10 * window + 10):
                feed(monitor, [math.nan if generator.random() < 0.03 else 1.0], start=step)
                assert monitor.sound_until(step + 1) >= sound
                sound = monitor.sound_until(step + 1)
                assert sound <= step + 1
            is_high = window > LEAST_LOSSES and generator.random() < 0.5
            monitor.logged(10 * window + 10, loss=9.0 if is_high else 1.0)
            verdict = monitor.verdict()
            if verdict is not None:
                assert verdict.steps[0] >= sound
                break


@pytest.mark.parametrize(
    "losses",
    [
        [6.0, 1.0, 6.0, 6.0],  # comes down again
        [6.0, 6.0],  # not for long enough
        [4.9] * 20,  # not high enough
        [math.nan] * 20,  # steps that were refused
    ],
)
def test_any_other_loss_does_not(losses: list[float]) -> None:
    monitor = of(patience=30)
    log(monitor, losses, start=log(monitor, [1.0] * LEAST_LOSSES, start=0))
    assert monitor.verdict() is None


@pytest.mark.parametrize(
    ("first", "fields"),
    [
        ([1.0] * (LEAST_LOSSES - 3), {}),  # no level yet
        ([-1.0] * LEAST_LOSSES, {}),  # a factor of what is below zero means nothing
        ([1.0] * LEAST_LOSSES, {"loss_factor": None}),
    ],
)
def test_a_loss_without_a_level_is_never_high(
    first: list[float], fields: dict[str, object]
) -> None:
    monitor = of(patience=10, **fields)
    log(monitor, [1e6] * 3, start=log(monitor, first, start=0))
    assert monitor.verdict() is None
    assert monitor.is_healthy


def test_a_monitor_goes_on_from_a_checkpoint_as_if_it_had_not_stopped() -> None:
    generator = random.Random(1)
    norms = [math.exp(generator.gauss(0.0, 0.5)) for _ in range(80)]
    norms[45] = norms[61] = math.nan
    norms[70] = 1e6
    for stop in range(1, 80, 13):
        straight, stopped = of(patience=20), of(patience=20)
        feed(straight, norms[:stop])
        feed(stopped, norms[:stop])
        log(straight, [1.0] * 12 + [9.0], start=0)
        log(stopped, [1.0] * 12 + [9.0], start=0)
        resumed = of(patience=20)
        resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict(), allow_nan=False)))
        assert feed(resumed, norms[stop:], start=stop) == feed(straight, norms[stop:], start=stop)
        for one in (resumed, straight):
            log(one, [9.0], start=130)
        assert resumed.verdict() == straight.verdict()
        assert resumed.verdict() is not None
        assert resumed.state_dict() == straight.state_dict()

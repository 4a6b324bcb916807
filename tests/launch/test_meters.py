"""What Prometheus hears of a run's events."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.launch import meters
from orchestrator.launch.accounts import Accounts
from orchestrator.launch.meters import (
    MOST_RANKS,
    OF_METRICS,
    REST,
    Kind,
    Meters,
    Reading,
    metering,
)
from orchestrator.recipe.load import parse_recipe
from orchestrator.storage.store import open_store
from tests.beats import FakeRank, gang, stage_end, stage_start
from tests.tiny import tiny_tree

RUN = "s3://bucket/runs/tiny"
STAGE = "dit"
LIMIT_S = 20.0  # a failure waits for it, a success does not


class Series:
    """Every series as Prometheus would hold it; labels but the run's, in the order of names."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, ...], float] = {}
        self.meters = Meters(RUN, sink=self.put)

    def put(self, reading: Reading) -> None:
        assert set(reading.tags) == set(reading.metric.tags)
        labels = [one for name, one in sorted(reading.tags.items()) if name != "run"]
        assert reading.tags["run"] == RUN
        key = (reading.metric.name.removeprefix("rushes_"), *labels)
        if reading.metric.kind is Kind.COUNTER:
            assert reading.value > 0  # Ray takes no other
            self.values[key] = self.values.get(key, 0.0) + reading.value
        else:
            self.values[key] = reading.value

    def hears(self, *events: dict[str, Any]) -> "Series":
        for event in events:
            self.meters.event(event)
        return self


@pytest.fixture
def series() -> Series:
    return Series()


def rank(number: int = 0, *, token: str = "g", step: int = 0) -> FakeRank:
    return FakeRank(0.0, token, rank=number, stage=STAGE, step=step)


def loaded(step: int) -> dict[str, Any]:
    return {"kind": "moment", "stage": STAGE, "moment": "loaded", "step": step, "time": 0.0}


def logged(step: int, **values: float) -> dict[str, Any]:
    return {"kind": "metrics", "stage": STAGE, "step": step, "time_ms": 1, "values": values}


def progress(step: int, **values: float) -> dict[str, Any]:
    return {"kind": "progress", "stage": STAGE, "step": step, "steps": 100, **values}


def test_logged_values_have_a_series_each(series: Series) -> None:
    series.hears(logged(20, **{name: float(at) for at, name in enumerate(OF_METRICS)}, lr=1.0))
    seen = {name for name, *_ in series.values}
    assert seen == {one.name.removeprefix("rushes_") for one in OF_METRICS.values()}
    assert series.values["loss", STAGE] == 0.0
    assert series.values["step_seconds", STAGE] == 1.0


def test_progress_is_known_between_logged_steps(series: Series) -> None:
    series.hears(progress(20, eta_s=61.0, loss=1.0), progress(23))
    assert series.values == {
        ("step", STAGE): 23.0,
        ("steps", STAGE): 100.0,
        ("seconds_left", STAGE): 61.0,
    }


def test_a_stage_runs_until_its_end(series: Series) -> None:
    series.hears(stage_start(0.0, stage=STAGE), gang(1.0, stage=STAGE))
    assert series.values["running", STAGE] == 1.0
    series.hears(gang(5.0, stage=STAGE), stage_end(9.0, stage=STAGE))
    assert series.values["running", STAGE] == 0.0
    assert series.values["gangs", STAGE] == 2.0


def test_each_rank_has_its_own_time_per_step(series: Series) -> None:
    series.hears(loaded(40))
    for number, compute in ((0, 0.1), (1, 0.3)):
        one = rank(number)
        series.hears(one.spends({"start_up": 9.0}, step=0))
        for step in range(41, 61):
            spans = {"communication": 0.4 - compute, "data_wait": 0.1, "compute": compute}
            series.hears(one.spends(spans, step=step))
        series.hears(one.spends({"save_blocked": 2.0}, step=60) | {"last": True})
    for number, compute in (("0", 0.1), ("1", 0.3)):
        steps = series.values["rank_steps", number, STAGE]
        assert steps == 20.0
        own = series.values["rank_seconds", "compute", number, STAGE]
        assert own / steps == pytest.approx(compute)
        waits = series.values["rank_seconds", "communication", number, STAGE]
        assert waits / steps == pytest.approx(0.4 - compute)
        assert series.values["rank_seconds", "save_blocked", number, STAGE] == pytest.approx(2.0)


def test_a_new_gang_goes_on_counting_from_the_checkpoint(series: Series) -> None:
    first, second = rank(), rank(token="h")
    series.hears(loaded(0), first.spends({"compute": 10.0}, step=10))
    series.hears(gang(11.0, stage=STAGE), loaded(8))
    series.hears(second.spends({"start_up": 20.0}, step=0))
    series.hears(second.spends({"compute": 4.0}, step=12))
    assert series.values["rank_steps", "0", STAGE] == 10.0 + 4.0
    assert series.values["rank_seconds", "compute", "0", STAGE] == 10.0 + 4.0


def test_a_rank_that_is_heard_before_its_start_is_known_counts_from_there(series: Series) -> None:
    one = rank(1)
    series.hears(one.spends({"compute": 1.0}, step=41))
    assert not series.values
    series.hears(one.spends({"compute": 6.0}, step=47))
    assert series.values == {
        ("rank_steps", "1", STAGE): 6.0,
        ("rank_seconds", "compute", "1", STAGE): 6.0,
    }


def test_steps_that_a_rewind_takes_back_are_not_taken_away(series: Series) -> None:
    one = rank()
    series.hears(loaded(0), one.spends({"compute": 10.0}, step=10))
    series.hears(one.spends({"save_blocked": 10.0}, step=5))
    series.hears(one.spends({"compute": 10.0}, step=15))
    assert series.values["rank_steps", "0", STAGE] == 20.0


def test_ranks_have_a_bounded_number_of_series(series: Series) -> None:
    series.hears(loaded(0))
    for number in range(MOST_RANKS + 50):
        series.hears(rank(number).spends({"compute": 10.0}, step=10))
    steps = {key: one for key, one in series.values.items() if key[0] == "rank_steps"}
    assert len(steps) == MOST_RANKS + 1
    assert steps["rank_steps", REST, STAGE] == 50 * 10.0


def test_gauges_are_said_again_and_counters_are_not(series: Series) -> None:
    series.hears(stage_start(0.0, stage=STAGE), gang(1.0, stage=STAGE), progress(20))
    before = dict(series.values)
    series.values.clear()
    series.meters.refresh()
    assert series.values == {key: one for key, one in before.items() if key[0] != "gangs"}


def test_what_was_true_of_a_stage_is_not_said_after_its_end(series: Series) -> None:
    spent = {"goodput/useful": 50.0, "goodput/compute": 50.0, "goodput/rank_hours": 1.0}
    series.hears(stage_start(0.0, stage=STAGE), progress(20), logged(20, **spent))
    series.hears(stage_end(9.0, stage=STAGE))
    series.values.clear()
    series.meters.refresh()
    assert {name for name, *_ in series.values} == {
        "running",
        "goodput_ratio",
        "spent_rank_seconds",
    }
    assert series.values["running", STAGE] == 0.0


def test_without_a_sink_events_are_dropped() -> None:
    with metering(RUN, sink=None) as meter:
        meter(progress(20))


def test_gauges_are_refreshed_while_a_run_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "_EVERY_S", 0.01)
    heard: list[Reading] = []
    enough = threading.Event()

    def put(reading: Reading) -> None:
        heard.append(reading)
        if len(heard) > 20:
            enough.set()

    with metering(RUN, sink=put) as meter:
        meter(progress(20))
        assert enough.wait(LIMIT_S)
    assert {one.metric.name for one in heard} == {"rushes_step", "rushes_steps"}


def test_a_value_that_is_not_finite_is_no_reading(series: Series) -> None:
    series.hears(progress(1, eta_s=float("nan")), logged(1, loss=float("inf")))
    assert {name for name, *_ in series.values} == {"step", "steps"}


def test_the_ledger_says_what_rank_seconds_went_into(series: Series, tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "run"))
    store.put("attempts/0001.json", b"{}")
    now = SimpleNamespace(time=0.0)
    accounts = Accounts(
        parse_recipe(tiny_tree(tmp_path, workers=1), origin="tiny"),
        store,
        attempt=1,
        earlier=(),
        tell=series.meters.event,
        clock=lambda: now.time,
    )
    one = FakeRank(0.0, "g", ranks=1, stage=STAGE)
    for event in (
        stage_start(0.0, stage=STAGE, workers=1),
        gang(0.0, stage=STAGE, workers=1),
        one.spends({"start_up": 10.0}, step=0),
        one.spends({"compute": 25.0}, step=25),
        one.spends({"save_blocked": 5.0}, step=25),
        stage_end(50.0, stage=STAGE),
    ):
        now.time = event["time"]
        accounts.event(event)
    assert series.values["goodput_ratio", STAGE] == pytest.approx(0.5)
    spent = {key[1]: one for key, one in series.values.items() if key[0] == "spent_rank_seconds"}
    assert sum(spent.values()) == pytest.approx(50.0)
    assert spent["compute"] == pytest.approx(25.0)
    assert spent["idle"] == pytest.approx(10.0)
    assert spent["detection"] == 0.0  # what was detection and turns out not to be must go
    assert series.values["run_goodput_ratio",] == pytest.approx(0.5, abs=0.2)

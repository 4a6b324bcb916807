"""The ledger of a run for people: charts, cost, one line at the end."""

import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cascade.goodput_file import RowsKeeper, read_rows
from orchestrator.cascade.goodput_rows import Row
from orchestrator.launch.accounts import Accounts
from orchestrator.launch.spending import by_stage, in_one_line, in_total
from orchestrator.recipe.load import parse_recipe
from orchestrator.recipe.recipe import Recipe
from orchestrator.storage.store import Store, open_store
from tests.beats import FakeRank, gang, ledger_of, stage_end, stage_start
from tests.tiny import tiny_tree

DIT = "dit"
LIMIT_S = 20.0  # a failure waits for it, a success does not


def recipe_with(folder: Path, **price: float) -> Recipe:
    tree = tiny_tree(folder, workers=2)
    return parse_recipe(tree | ({"price": price} if price else {}), origin="tiny")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    one = open_store(str(tmp_path / "run"))
    one.put("attempts/0001.json", b"{}")
    return one


class Told:
    """A run's accounts on a clock of the test's, and what they have told."""

    def __init__(
        self, recipe: Recipe, store: Store, *, attempt: int = 1, earlier: Iterable[Row] = ()
    ) -> None:
        self.now = 0.0
        self.points: list[dict[str, Any]] = []
        self.accounts = Accounts(
            recipe,
            store,
            attempt=attempt,
            earlier=earlier,
            tell=self.points.append,
            clock=lambda: self.now,
        )

    def hears(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.now = event["time"]
            self.accounts.event(event)

    def trains(self, *, start: float, seconds: int, rank: FakeRank) -> None:
        """A stage of one rank that beats once a second, a step a second."""
        self.hears(stage_start(start, stage=DIT, workers=1), gang(start, stage=DIT, workers=1))
        self.hears(rank.spends({"start_up": 5.0}, step=rank.step))
        for _ in range(seconds):
            self.hears(rank.spends({"compute": 1.0}, step=rank.step + 1))

    def steps(self, stage: str | None) -> list[int]:
        return [one["step"] for one in self.points if one["stage"] == stage]


def test_points_are_bounded_and_end_with_the_stage(tmp_path: Path, store: Store) -> None:
    told = Told(recipe_with(tmp_path), store)
    told.trains(start=0.0, seconds=5000, rank=FakeRank(0.0, "g", ranks=1, stage=DIT))
    told.hears(stage_end(5006.0, stage=DIT))
    steps = told.steps(DIT)
    assert steps == sorted(set(steps))
    assert steps[-1] == 5006
    # One each 10 s of the first 1,000, then one for each hundredth of the time so far.
    assert 200 < len(steps) < 100 + 100 * 1.7
    last = told.points[-1]["values"]
    assert last["goodput/compute"] == pytest.approx(100 * 5000 / 5006)
    assert last["goodput/useful"] == last["goodput/compute"]
    assert last["goodput/rank_hours"] == pytest.approx(5006 / 3600)
    assert "goodput/cost" not in last


def test_a_stage_that_ends_in_the_second_of_a_point_has_one_more(
    tmp_path: Path, store: Store
) -> None:
    """MLflow is sent each step of a metric once: a second point with that step would be dropped."""
    told = Told(recipe_with(tmp_path), store)
    told.trains(start=0.0, seconds=5, rank=FakeRank(0.0, "g", ranks=1, stage=DIT))
    told.hears(stage_end(10.5, stage=DIT))
    assert told.steps(DIT) == [10, 11]
    assert told.points[-1]["values"]["goodput/rank_hours"] == pytest.approx(10.5 / 3600)


def test_a_later_start_goes_on_with_the_charts(tmp_path: Path, store: Store) -> None:
    recipe = recipe_with(tmp_path)
    first = Told(recipe, store)
    first.trains(start=0.0, seconds=50, rank=FakeRank(0.0, "g", ranks=1, stage=DIT))
    assert first.accounts.close()
    store.put("attempts/0002.json", b"{}")
    earlier, _ = read_rows(store)
    second = Told(recipe, store, attempt=2, earlier=earlier)
    second.now = 100.0
    rank = FakeRank(100.0, "h", ranks=1, stage=DIT, step=50)
    second.trains(start=100.0, seconds=50, rank=rank)
    for stage in (DIT, None):
        assert second.steps(stage)[0] > first.steps(stage)[-1]
    second.hears(stage_end(155.0, stage=DIT), {"kind": "end", "stage": None, "time": 155.0})
    total = second.points[-1]
    assert total["stage"] is None
    assert total["values"]["goodput/start_up"] == pytest.approx(100 * 5 / 110)
    assert total["values"]["goodput/restart"] == pytest.approx(100 * 5 / 110)
    assert second.accounts.close() == [
        "goodput: 90.9 % of 0.0306 rank-hours (start-up 4.5 %, restart 4.5 %)"
    ]
    assert [row.attempt for row in read_rows(store)[0]] == [1, 2]


class WrittenStore:
    """A store that says when something was written."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.written = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes) -> None:
        self._store.put(key, data)
        self.written.set()


def test_a_driver_that_is_killed_soon_leaves_its_gangs_on_record(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = partial(RowsKeeper, every_s=3600.0)
    monkeypatch.setattr("orchestrator.launch.accounts.RowsKeeper", never)
    watched = WrittenStore(store)
    told = Told(recipe_with(tmp_path), watched)  # pyright: ignore[reportArgumentType]
    told.hears(stage_start(0.0, stage=DIT, workers=2), gang(1.0, stage=DIT))
    assert watched.written.wait(LIMIT_S)
    assert [(row.stage, row.rank) for row in read_rows(store)[0]] == [(DIT, 0), (DIT, 1)]
    told.accounts.close()


def test_cost_is_time_by_the_price_of_a_stages_worker(tmp_path: Path) -> None:
    tree = tiny_tree(tmp_path, workers=2)
    tree["price"] = {"gpu_hour": 3.0, "cpu_hour": 0.5, "currency": "EUR"}
    tree["stages"][2]["compute"] |= {"gpus_per_worker": 1, "cpus_per_worker": 8}
    tree["stages"][1]["compute"] = {"workers": 2, "cpus_per_worker": 4}
    recipe = parse_recipe(tree, origin="tiny")
    rows = ledger_of(
        stage_start(0.0, stage="encode", kind="encode", workers=2),
        stage_end(1800.0, stage="encode"),
        stage_start(1800.0, stage=DIT, workers=2),
        gang(1800.0, stage=DIT),
        stage_end(5400.0, stage=DIT),
    )
    assert [(one.name, one.cost) for one in by_stage(rows, recipe=recipe)] == [
        ("encode", pytest.approx(2 * 0.5 * 4 * 0.5)),
        (DIT, pytest.approx(2 * 1.0 * 3.0)),
    ]
    total = in_total(rows, recipe=recipe)
    assert total.cost == pytest.approx(8.0)
    assert in_one_line(total, recipe=recipe).endswith(", cost 8.00 EUR")
    assert in_total(rows, recipe=recipe_with(tmp_path)).cost is None

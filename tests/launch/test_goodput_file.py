"""goodput.jsonl: written beside everything else, by one start, whatever the store does."""

import threading
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cascade.goodput_file import KEY, RowsKeeper, read_rows, write_rows
from orchestrator.cascade.goodput_rows import Row, to_lines
from orchestrator.errors import FencedError, UnavailableError
from orchestrator.storage.store import Store, open_store
from tests.beats import FakeRank, ledger_of, stage_end, stage_start

LIMIT_S = 20.0


def rows_of(attempt: int, *, end: float = 6.0) -> list[Row]:
    rank = FakeRank(started=0.0, token=f"g{attempt}", ranks=1)
    beat = rank.spends({"start_up": 1.0, "compute": 4.0}, step=4)
    return ledger_of(stage_start(0.0, workers=1), beat, stage_end(end), attempt=attempt)


def start(store: Store, number: int) -> None:
    store.put(f"attempts/{number:04d}.json", b"{}")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    one = open_store(str(tmp_path / "run"))
    start(one, 1)
    return one


class AwayStore:
    """A store that gives up on every write until it is back."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_back = threading.Event()
        self.gave_up = threading.Semaphore(0)
        self.written = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def put(self, key: str, data: bytes) -> None:
        if not self.is_back.is_set():
            self.gave_up.release()
            raise UnavailableError(f"put {key}: gave up after 6 tries in 12 s: 503")
        self._store.put(key, data)
        self.written.set()


def test_rows_come_back_as_they_were(store: Store) -> None:
    write_rows(store, rows_of(1), attempt=1)
    assert read_rows(store) == (rows_of(1), 0)


def test_a_run_without_a_ledger_has_no_rows(store: Store) -> None:
    assert read_rows(store) == ([], 0)


def test_a_start_replaces_its_own_rows_and_keeps_the_others(store: Store) -> None:
    write_rows(store, rows_of(1), attempt=1)
    start(store, 2)
    for end in (7.0, 9.0):
        write_rows(store, rows_of(2, end=end), attempt=2)
    assert read_rows(store)[0] == [*rows_of(1), *rows_of(2, end=9.0)]


def test_a_start_that_was_replaced_writes_no_more(store: Store) -> None:
    start(store, 2)
    write_rows(store, rows_of(2), attempt=2)
    with pytest.raises(FencedError, match="start 2 of the run goes on with it"):
        write_rows(store, rows_of(1), attempt=1)
    keeper = RowsKeeper(store, attempt=1, rows=lambda: rows_of(1))
    keeper.flush()
    behind = keeper.close(LIMIT_S)
    assert behind is not None
    assert "start 2" in behind
    assert read_rows(store)[0] == rows_of(2)


def test_a_damaged_line_is_counted_and_left_out(store: Store) -> None:
    first, second = to_lines(rows_of(1)), to_lines(rows_of(2))
    store.put(KEY, first + second[:40] + b"\n" + second)
    assert read_rows(store) == ([*rows_of(1), *rows_of(2)], 1)


def test_an_outage_is_outlasted_and_nobody_waits_for_it(store: Store) -> None:
    away = AwayStore(store)
    keeper = RowsKeeper(away, attempt=1, rows=lambda: rows_of(1), every_s=0.01)  # pyright: ignore[reportArgumentType]
    keeper.touch()
    for _ in range(3):  # it tries by itself, though nothing more has changed
        assert away.gave_up.acquire(timeout=LIMIT_S)
    assert read_rows(store) == ([], 0)
    away.is_back.set()
    assert away.written.wait(LIMIT_S)
    assert keeper.close(LIMIT_S) is None
    assert read_rows(store)[0] == rows_of(1)


def test_an_outage_to_the_end_is_told(store: Store) -> None:
    away = AwayStore(store)
    keeper = RowsKeeper(away, attempt=1, rows=lambda: rows_of(1))  # pyright: ignore[reportArgumentType]
    keeper.flush()
    behind = keeper.close(LIMIT_S)
    assert behind == "put goodput.jsonl: gave up after 6 tries in 12 s: 503"


def test_nothing_is_written_where_nothing_has_changed(store: Store) -> None:
    keeper = RowsKeeper(store, attempt=1, rows=lambda: rows_of(1), every_s=0.01)
    assert keeper.close(LIMIT_S) is None
    assert not store.exists(KEY)

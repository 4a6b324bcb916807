"""The ledger's rows in small stories, worked out by hand."""

import pytest

from orchestrator.cascade.goodput import Goodput
from orchestrator.cascade.goodput_rows import Row
from tests.beats import FakeRank, gang, gang_end, ledger_of, stage_end, stage_start, told


def seconds_of(*wanted: dict[str, float]) -> list[object]:
    return [pytest.approx(one) for one in wanted]


def test_a_rank_that_trains_to_its_end() -> None:
    rank = FakeRank(started=103.0, token="g", ranks=1)
    rows = ledger_of(
        stage_start(100.0, workers=1),
        gang(102.0, workers=1),
        rank.spends({"start_up": 5.0}, step=0),
        rank.spends({"compile": 2.0, "data_wait": 1.0, "compute": 3.0}, step=3),
        rank.spends({"communication": 1.0, "compute": 4.0, "save_blocked": 0.5}, step=8),
        gang_end(120.0, failed=False),
        stage_end(121.0),
    )
    (row,) = rows
    assert row == Row(
        attempt=1,
        stage="base",
        inputs="a",
        gang="g",
        rank=0,
        node="node0",
        start=100.0,
        end=121.0,
        seconds=row.seconds,
        first_step=3,
        last_step=8,
    )
    assert row.seconds == pytest.approx(
        {
            "start_up": 8.0,  # three until its process began, five of its own
            "compile": 2.0,
            "data_wait": 1.0,
            "compute": 7.0,
            "communication": 1.0,
            "save_blocked": 0.5,
            "idle": 1.5,
        }
    )


def test_a_killed_rank_is_detected_and_its_steps_are_repeated() -> None:
    """Rank 1 dies at 111; rank 0 waits for it until that is seen at 115."""
    zero = FakeRank(started=100.0, token="g1", rank=0)
    one = FakeRank(started=100.0, token="g1", rank=1)
    new = [FakeRank(started=118.0, token="g2", rank=rank) for rank in (0, 1)]
    events = [
        stage_start(100.0),
        gang(100.0),
        zero.spends({"start_up": 1.0, "compute": 10.0}, step=10),
        one.spends({"start_up": 1.0, "compute": 10.0}, step=10),
        zero.spends({"communication": 3.0}, step=10),
        gang_end(115.0),
        gang(117.0),
        *(rank.spends({"start_up": 2.0, "compute": 3.0}, step=6) for rank in new),
        *(rank.spends({"compute": 8.0}, step=14) for rank in new),  # half of it is new
        gang_end(131.0, failed=False),
        stage_end(132.0),
    ]
    rows = ledger_of(*events)
    assert [(row.gang, row.rank, row.start, row.end) for row in rows] == [
        ("g1", 0, 100.0, 115.0),
        ("g1", 1, 100.0, 115.0),
        ("g2", 0, 115.0, 132.0),
        ("g2", 1, 115.0, 132.0),
    ]
    first = {"start_up": 1.0, "compute": 10.0, "detection": 4.0}
    second = {"restart": 5.0, "repeated": 7.0, "compute": 4.0, "idle": 1.0}
    assert [row.seconds for row in rows] == seconds_of(first, first, second, second)
    assert [(row.first_step, row.last_step) for row in rows] == [(10, 10)] * 2 + [(6, 14)] * 2


def test_a_gang_shrinks_after_a_loss_and_grows_after_a_save() -> None:
    """4 -> 2 -> 4: the first end is a failure, the second one is planned."""

    def ranks(count: int, *, token: str, started: float) -> list[FakeRank]:
        return [FakeRank(started, token, rank=rank, ranks=count) for rank in range(count)]

    four, two = ranks(4, token="g1", started=0.0), ranks(2, token="g2", started=20.0)
    again = ranks(4, token="g3", started=40.0)
    rows = ledger_of(
        stage_start(0.0, workers=4),
        gang(0.0, workers=4),
        *(rank.spends({"start_up": 2.0, "compute": 8.0}, step=8) for rank in four),
        gang_end(12.0),
        gang(19.0, workers=2),
        *(rank.spends({"start_up": 1.0}, step=5) for rank in two),
        *(rank.spends({"compute": 12.0, "save_blocked": 1.0}, step=11) for rank in two),
        gang_end(36.0, failed=False),
        gang(39.0, workers=4),
        *(rank.spends({"start_up": 1.0}, step=11) for rank in again),
        *(rank.spends({"compute": 4.0}, step=13) for rank in again),
        stage_end(45.0),
    )
    shrunk = {"start_up": 2.0, "compute": 8.0, "detection": 2.0}
    middle = {"restart": 9.0, "repeated": 6.0, "compute": 6.0, "save_blocked": 1.0}
    # ... and two seconds from their last beat to the end, which is a part of the restart.
    middle["restart"] += 2.0
    grown = {"restart": 4.0 + 1.0, "compute": 4.0}
    assert [row.seconds for row in rows] == seconds_of(*[shrunk] * 4, *[middle] * 2, *[grown] * 4)
    assert sum(row.end - row.start for row in rows) == 4 * 12 + 2 * 24 + 4 * 9


def test_a_gang_that_hangs_beats_on_and_is_in_detection() -> None:
    """Steps of a second, a preview, and then one step that never ends."""
    rank = FakeRank(started=0.0, token="g", ranks=1)
    events = [rank.spends({"start_up": 1.0}, step=0)]
    events += [rank.spends({"compute": 1.0}, step=step) for step in (1, 2, 3)]
    hangs = [rank.spends({"communication": 1.0}, step=3) for _ in range(100)]
    (row,) = ledger_of(stage_start(0.0, workers=1), *events, *hangs, gang_end(105.0))
    wanted = {"start_up": 1.0, "compute": 3.0, "communication": 1.0, "detection": 100.0}
    assert row.seconds == pytest.approx(wanted)
    rank = FakeRank(started=0.0, token="g", ranks=1)
    events = [rank.spends({"start_up": 1.0}, step=0)]
    events += [rank.spends({"compute": 1.0}, step=step) for step in (1, 2, 3)]
    previews = [rank.spends({"evaluation": 1.0}, step=3) for _ in range(100)]
    (row,) = ledger_of(stage_start(0.0, workers=1), *events, *previews, gang_end(105.0))
    wanted = {"start_up": 1.0, "compute": 3.0, "evaluation": 100.0, "detection": 1.0}
    assert row.seconds == pytest.approx(wanted)


def test_a_later_start_goes_on_from_the_rows_of_the_one_before() -> None:
    """The driver is killed at step 10; the next one resumes at step 6."""
    rank = FakeRank(started=0.0, token="g", ranks=1)
    before = ledger_of(
        stage_start(0.0, workers=1),
        rank.spends({"start_up": 1.0, "compute": 10.0}, step=10),
    )
    assert [row.seconds for row in before] == seconds_of({"start_up": 1.0, "compute": 10.0})
    again = FakeRank(started=101.0, token="h", ranks=1)
    events = [
        stage_start(100.0, workers=1),
        gang(100.5, workers=1),
        again.spends({"start_up": 2.0}, step=6),
        again.spends({"compute": 6.0}, step=12),
        stage_end(110.0),
    ]
    rows = ledger_of(*events, attempt=2, earlier=before)
    wanted = {"restart": 3.0, "repeated": 4.0, "compute": 2.0, "idle": 1.0}
    assert [row.seconds for row in rows] == seconds_of(wanted)
    assert {row.attempt for row in rows} == {2}
    other = [row.model_copy(update={"inputs": "b"}) for row in before]
    fresh = {"start_up": 3.0, "compute": 6.0, "idle": 1.0}
    assert [row.seconds for row in ledger_of(*events, earlier=other)] == seconds_of(fresh)


def test_what_is_written_in_the_middle_reaches_until_then() -> None:
    rank = FakeRank(started=0.0, token="g", ranks=2)
    ledger = told(
        Goodput(attempt=1),
        stage_start(0.0),
        gang(0.5),
        rank.spends({"start_up": 1.0, "compute": 4.0, "communication": 1.0}, step=4),
    )
    heard, silent = ledger.rows(now=6.5)
    assert heard.seconds == pytest.approx({"start_up": 1.0, "compute": 4.0, "communication": 1.5})
    assert silent.seconds == {"start_up": 6.5}
    assert silent.gang == "g"
    assert silent.node is None


def test_a_wait_for_machines_between_gangs_is_a_restart() -> None:
    rank = FakeRank(started=0.0, token="g", ranks=1)
    ledger = told(
        Goodput(attempt=1),
        stage_start(0.0, workers=1),
        gang(0.0, workers=1),
        rank.spends({"start_up": 1.0, "compute": 4.0}, step=4),
        gang_end(7.0),
    )
    (row,) = ledger.rows(now=60.0)
    assert row.seconds == {"start_up": 1.0, "compute": 4.0, "detection": 2.0, "restart": 53.0}
    ledger.take(gang(100.0, workers=3), now=100.0)
    first, *rest = ledger.rows(now=101.0)
    assert first.end == 7.0
    assert [row.seconds for row in rest] == [{"restart": 94.0}] * 3


def test_a_rank_that_goes_back_to_a_checkpoint_repeats_its_own_steps() -> None:
    rank = FakeRank(started=0.0, token="g", ranks=1)
    (row,) = ledger_of(
        stage_start(0.0, workers=1),
        rank.spends({"start_up": 1.0, "compute": 10.0}, step=10),
        rank.spends({"compute": 1.0}, step=4),
        rank.spends({"compute": 8.0}, step=12),
        stage_end(20.0),
    )
    assert row.seconds == pytest.approx({"start_up": 1.0, "compute": 13.0, "repeated": 6.0})
    assert row.last_step == 12


def test_a_process_older_than_its_stage_counts_from_the_stages_start() -> None:
    rank = FakeRank(started=40.0, token="g", ranks=1)
    (row,) = ledger_of(
        stage_start(100.0, workers=1),
        rank.spends({"start_up": 63.0, "compute": 5.0}, step=5),
        stage_end(108.0),
    )
    assert row.seconds == pytest.approx({"start_up": 3.0, "compute": 5.0})
    assert row.gap_s == pytest.approx(0.0)


def test_a_beat_of_a_gang_that_is_over_changes_nothing() -> None:
    old = FakeRank(started=0.0, token="old", ranks=1)
    new = FakeRank(started=9.0, token="new", ranks=1)
    events = [
        stage_start(0.0, workers=1),
        gang(0.0, workers=1),
        old.spends({"start_up": 1.0, "compute": 4.0}, step=4),
        gang_end(7.0),
        gang(9.0, workers=1),
        new.spends({"start_up": 1.0}, step=4),
        old.spends({"compute": 6.0}, step=10),  # a process that was suspended wakes
        new.spends({"compute": 2.0}, step=6),
        stage_end(12.0),
    ]
    with_it, without = ledger_of(*events), ledger_of(*[one for one in events if one != events[6]])
    assert with_it == without
    assert len(with_it) == 2


def test_a_beat_from_after_the_end_moves_no_time() -> None:
    rank = FakeRank(started=0.0, token="g", ranks=1)
    ledger = told(
        Goodput(attempt=1),
        stage_start(0.0, workers=1),
        rank.spends({"start_up": 1.0, "compute": 4.0}, step=4),
        gang_end(7.0),
        rank.spends({"compute": 4.0}, step=8),
        stage_end(10.0, status="FAILED"),
    )
    (row,) = ledger.rows(now=10.0)
    assert row.seconds == {"start_up": 1.0, "compute": 4.0, "detection": 2.0, "idle": 3.0}
    assert row.last_step == 4


def test_a_clock_that_is_ahead_moves_no_time_past_the_end() -> None:
    """The node's clock is 30 s ahead; its beats take half a second to arrive."""
    rank = FakeRank(started=31.0, token="g", ranks=1)
    ledger = told(Goodput(attempt=1), stage_start(0.0, workers=1))
    for number in range(1, 6):
        spans = {"start_up": 1.0} if number == 1 else {"compute": 1.0}
        ledger.take(rank.spends(spans, step=number - 1), now=1.0 + number + 0.5)
    ledger.take(stage_end(7.0), now=7.0)
    (row,) = ledger.rows(now=7.0)
    assert row.seconds == pytest.approx({"start_up": 2.5, "compute": 4.0, "idle": 0.5})


def test_stages_without_steps_are_of_one_kind() -> None:
    rows = ledger_of(
        stage_start(0.0, stage="encode", kind="encode", workers=2),
        stage_start(1.0, stage="score", kind="evaluate", workers=3),
        stage_end(5.0, stage="score"),
        stage_end(9.0, stage="encode"),
    )
    assert [(row.stage, row.rank, row.seconds) for row in rows] == [
        ("score", 0, {"evaluation": 4.0}),
        ("encode", 0, {"compute": 9.0}),
        ("encode", 1, {"compute": 9.0}),
    ]


def test_a_stage_that_found_no_place_has_spent_nothing() -> None:
    assert ledger_of(stage_start(0.0), stage_end(60.0, status="KILLED")) == []

"""A rank's clock: whatever it does, every nanosecond is somewhere, and only once."""

from collections import Counter
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.train.ledger import CATEGORIES, IN_STEPS, Category, Ledger, process_ledger

STARTED_NS = 1_700_000_000_000_000_000


class FakeClock:
    """Goes on by what it is told."""

    def __init__(self) -> None:
        self.now_ns = STARTED_NS

    def __call__(self) -> int:
        return self.now_ns


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ledger(clock: FakeClock) -> Ledger:
    return Ledger(started_ns=STARTED_NS, clock=clock)


moves = st.one_of(
    st.tuples(st.just("wait"), st.integers(0, 10**15)),
    st.tuples(st.just("enter"), st.sampled_from(CATEGORIES)),
    st.tuples(st.just("leave"), st.none()),
    st.tuples(st.just("settle"), st.sampled_from(CATEGORIES)),
)


@given(st.lists(moves, max_size=40))
def test_all_time_is_in_one_category(steps: list[tuple[str, int | Category | None]]) -> None:
    clock = FakeClock()
    ledger = Ledger(started_ns=STARTED_NS, clock=clock)
    base: Category = "start_up"
    inside: list[tuple[ExitStack, Category]] = []
    wanted: Counter[Category] = Counter()
    for what, value in steps:
        now = inside[-1][1] if inside else base
        match what:
            case "wait":
                assert isinstance(value, int)
                clock.now_ns += value
                wanted[now] += value
            case "enter":
                stack = ExitStack()
                stack.enter_context(ledger.in_phase(value))  # pyright: ignore[reportArgumentType]
                is_kept = value == "communication" and now != "compute"
                inside.append((stack, now if is_kept else value))  # pyright: ignore[reportArgumentType]
            case "leave" if inside:
                inside.pop()[0].close()
            case "settle" if not inside:
                ledger.settle(value)  # pyright: ignore[reportArgumentType]
                base = value  # pyright: ignore[reportAssignmentType]
        reading = ledger.read()
        assert reading.spent_ns == {category: wanted[category] for category in CATEGORIES}
        assert sum(reading.spent_ns.values()) == reading.time_ns - reading.started_ns


def test_a_process_begins_with_its_start_up(ledger: Ledger, clock: FakeClock) -> None:
    clock.now_ns += 7
    reading = ledger.read()
    assert (reading.phase, reading.phase_ns) == ("start_up", 7)
    assert reading.in_steps_ns == 0


def test_the_innermost_phase_counts_and_the_outer_one_goes_on(
    ledger: Ledger, clock: FakeClock
) -> None:
    ledger.settle("compute")
    with ledger.in_phase("save_blocked"):
        clock.now_ns += 1
        with ledger.in_phase("evaluation"):
            clock.now_ns += 10
        clock.now_ns += 100
    clock.now_ns += 1000
    spent = ledger.read().spent_ns
    assert [spent[name] for name in ("save_blocked", "evaluation", "compute")] == [101, 10, 1000]


def test_collectives_of_a_save_are_a_part_of_the_save(ledger: Ledger, clock: FakeClock) -> None:
    ledger.settle("compute")
    with ledger.in_phase("save_blocked"), ledger.in_phase("communication"):
        clock.now_ns += 5
    with ledger.in_phase("communication"):
        clock.now_ns += 3
    spent = ledger.read().spent_ns
    assert (spent["save_blocked"], spent["communication"]) == (5, 3)


def test_a_phase_that_fails_is_over(ledger: Ledger, clock: FakeClock) -> None:
    ledger.settle("compute")
    with pytest.raises(ZeroDivisionError), ledger.in_phase("evaluation"):
        _ = 1 / 0
    assert ledger.read().phase == "compute"


def test_a_clock_that_is_read_too_early_takes_nothing_back(
    ledger: Ledger, clock: FakeClock
) -> None:
    clock.now_ns += 10
    ledger.settle("compute")
    clock.now_ns -= 4
    assert ledger.read().spent_ns["compute"] == 0


def test_steps_are_made_of_waiting_computing_and_communication() -> None:
    assert set(CATEGORIES) - set(IN_STEPS) == {"start_up", "compile", "save_blocked", "evaluation"}


def test_a_second_stage_of_a_process_begins_where_the_first_has_ended() -> None:
    with process_ledger() as first:
        ended = first.read()
    with process_ledger() as second:
        assert second.started_ns >= ended.time_ns
        assert second.read().seconds()["start_up"] < ended.seconds()["start_up"]

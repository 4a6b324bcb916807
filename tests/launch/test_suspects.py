"""Who holds a gang up: every mix of ranks that beat, are silent, wait or are elsewhere."""

from itertools import product
from typing import Any

import pytest

from orchestrator.cascade.suspects import Heard, Verdict, collective_text, judge

SILENT_S, HANG_S = 12.0, 600.0


def heard(
    *, age_s: float = 1.0, in_step_s: float = HANG_S, at: tuple[int, bool] | None = (5, True)
) -> Heard:
    """A rank; ``at``: its last collective, and whether that has returned."""
    last: dict[str, Any] | None = None
    if at is not None:
        last = {"number": at[0], "returned": at[1], "name": "all_reduce", "shapes": [[at[0]]]}
        last |= {"dtypes": ["Float"]}
    return Heard(beat={"in_step_s": in_step_s, "collective": last}, age_s=age_s)


def verdict(*ranks: Heard, size: int | None = None) -> Verdict | None:
    return judge(
        dict(enumerate(ranks)), ranks=size or len(ranks), silent_s=SILENT_S, hang_after_s=HANG_S
    )


@pytest.mark.parametrize("ages", list(product((0.0, 11.9, 12.0, 300.0), repeat=3)))
def test_silent_ranks_are_those_whose_last_beat_is_old(ages: tuple[float, ...]) -> None:
    found = verdict(*(heard(age_s=age_s, in_step_s=0.0) for age_s in ages))
    silent = tuple(rank for rank, age_s in enumerate(ages) if age_s >= SILENT_S)
    assert (found is None) == (not silent)
    if found is not None:
        assert (found.kind, found.ranks) == ("silent", silent)


def test_silence_comes_before_being_stuck() -> None:
    # The others wait for the silent one: they are not the cause.
    found = verdict(heard(at=(6, False)), heard(age_s=SILENT_S, at=(5, True)))
    assert found is not None
    assert (found.kind, found.ranks) == ("silent", (1,))
    assert found.why == "no sign of life for 12 s; the others wait in all_reduce #6 [6] Float"


def test_a_rank_is_silent_although_others_have_not_begun() -> None:
    found = verdict(heard(age_s=SILENT_S), size=4)
    assert found == Verdict(kind="silent", ranks=(0,), why="no sign of life for 12 s")


@pytest.mark.parametrize("in_step_s", list(product((0.0, HANG_S - 0.1, HANG_S), repeat=2)))
def test_a_gang_is_stuck_only_if_all_of_it_is(in_step_s: tuple[float, float]) -> None:
    found = verdict(*(heard(in_step_s=one) for one in in_step_s))
    assert (found is not None) == all(one >= HANG_S for one in in_step_s)


def test_a_gang_that_is_not_complete_is_not_stuck() -> None:
    assert verdict(heard(), heard(), size=3) is None
    assert verdict(size=2) is None


STATES = [(4, True), (5, True), (5, False), (6, False), None]


@pytest.mark.parametrize("states", list(product(STATES, repeat=3)))
def test_culprits_are_not_where_the_furthest_ranks_wait(
    states: tuple[tuple[int, bool] | None, ...],
) -> None:
    found = verdict(*(heard(at=at) for at in states))
    assert found is not None
    assert found.kind == "stuck"
    numbers = [at[0] for at in states if at is not None and not at[1]]
    if not numbers:
        assert found.ranks == (0, 1, 2)
        assert found.why.endswith("none of them waits in a collective")
        return
    outside = tuple(rank for rank, at in enumerate(states) if at != (max(numbers), False))
    assert found.ranks == (outside or (0, 1, 2))
    where = "the others wait in" if outside else "all ranks wait in the same"
    assert found.why.endswith(f"{where} all_reduce #{max(numbers)} [{max(numbers)}] Float")


def test_many_tensors_are_shortened() -> None:
    last = {"number": 1, "name": "all_gather", "shapes": [[2]] * 9, "dtypes": ["Float"] * 9}
    assert collective_text(last) == "all_gather #1 [2], [2], [2], ... (9 tensors) Float"


def test_what_is_not_recorded_is_called_unknown() -> None:
    assert collective_text(None) == "collective (unknown)"
    assert collective_text({"number": 3, "returned": True}) == "collective #3"

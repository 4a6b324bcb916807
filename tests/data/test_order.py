"""The order of clips: every one once an epoch, the same from wherever one starts."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.order import BucketOrder, BucketSchedule, permutation, position_of

counts = st.integers(1, 60)
batches = st.integers(1, 20)
seeds = st.integers(0, 2**63)
weights = st.lists(st.integers(1, 1000), min_size=1, max_size=6)


@given(count=counts, batch=batches, seed=seeds)
def test_each_clip_comes_once_an_epoch(count: int, batch: int, seed: int) -> None:
    order = BucketOrder(count, seed=seed, name="clips")
    steps = -(-3 * count // batch)
    drawn = list(chain.from_iterable(order.batch(step, size=batch) for step in range(steps)))
    for epoch in range(3):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(count=counts, batch=batches, seed=seeds, steps=st.lists(st.integers(0, 50), max_size=8))
def test_batch_does_not_depend_on_what_was_drawn_before(
    count: int, batch: int, seed: int, steps: list[int]
) -> None:
    walked = BucketOrder(count, seed=seed, name="clips")
    for step in steps:
        alone = BucketOrder(count, seed=seed, name="clips")
        assert walked.batch(step, size=batch) == alone.batch(step, size=batch)


def test_seed_epoch_and_bucket_each_change_the_order() -> None:
    def order(*, seed: int = 0, epoch: int = 0, name: str = "a") -> list[int]:
        return permutation(40, seed=seed, epoch=epoch, name=name).tolist()

    assert order() == order()
    others = [order(seed=1), order(epoch=1), order(name="b")]
    assert all(other != order() for other in others)
    assert len({tuple(other) for other in others}) == 3


def test_order_is_the_same_as_ever() -> None:
    # Another one would silently repeat clips in a run that goes on.
    assert permutation(10, seed=7, epoch=2, name="(9, 32, 32)").tolist() == [
        5,
        6,
        7,
        9,
        1,
        0,
        4,
        8,
        2,
        3,
    ]


@given(shares=weights, steps=st.integers(1, 200))
def test_buckets_come_as_often_as_they_weigh(shares: list[int], steps: int) -> None:
    schedule = BucketSchedule(shares)
    taken = [0] * len(shares)
    for step in range(steps):
        bucket, ordinal = schedule.at(step)
        assert ordinal == taken[bucket]  # no batch is skipped or drawn twice
        taken[bucket] += 1
        for count, share in zip(taken, shares, strict=True):
            owed = (step + 1) * share / sum(shares)
            # None is more than one step early, so together they are never that many late.
            assert -(len(shares) - 1) - 1e-6 <= count - owed <= 1 + 1e-6


@given(shares=weights, steps=st.lists(st.integers(0, 100), max_size=10))
def test_schedule_is_a_function_of_the_step(shares: list[int], steps: list[int]) -> None:
    walked = BucketSchedule(shares)
    for step in steps:
        assert walked.at(step) == BucketSchedule(shares).at(step)


@pytest.mark.parametrize("shares", [[], [0.0], [1.0, -1.0]])
def test_weight_that_is_none_is_refused(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="wanted at least one, all above 0"):
        BucketSchedule(shares)


@pytest.mark.parametrize("left_out", [[], [0], [3], [0, 1, 2], [2, 3, 7, 19], [5, 6, 8]])
def test_steps_read_the_places_that_are_not_left_out_in_order(left_out: list[int]) -> None:
    slow = [place for place in range(40) if place not in left_out]
    assert [position_of(step, left_out=left_out) for step in range(20)] == slow[:20]

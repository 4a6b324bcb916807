"""The order of clips: every one once an epoch, the same from wherever one starts."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.order import ClipOrder, permutation, position_of
from orchestrator.data.schedule import BucketSchedule, SlotShares

shards = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any)
seeds = st.integers(0, 2**63)
weights = st.lists(st.integers(1, 1000), min_size=1, max_size=6)


@given(shards=shards, block=st.integers(1, 6), seed=seeds)
def test_each_clip_comes_once_an_epoch(shards: list[int], block: int, seed: int) -> None:
    order = ClipOrder(shards, block=block, seed=seed, name="clips")
    count = sum(shards)
    assert len(order) == count
    drawn = order.at(np.arange(3 * count)).tolist()
    for epoch in range(3):
        assert sorted(drawn[epoch * count : (epoch + 1) * count]) == list(range(count))


@given(
    shards=shards,
    block=st.integers(1, 6),
    seed=seeds,
    places=st.lists(st.integers(0, 500), max_size=8),
)
def test_a_place_does_not_depend_on_what_was_drawn_before(
    shards: list[int], block: int, seed: int, places: list[int]
) -> None:
    walked = ClipOrder(shards, block=block, seed=seed, name="clips")
    for place in places:
        fresh = ClipOrder(shards, block=block, seed=seed, name="clips")
        assert walked.at(np.array([place])) == fresh.at(np.array([place]))


@given(shards=shards, seed=seeds)
def test_one_block_is_a_shuffle_of_all_clips(shards: list[int], seed: int) -> None:
    order = ClipOrder(shards, block=len(shards), seed=seed, name="clips")
    count = sum(shards)
    for epoch in range(2):
        drawn = order.at(epoch * count + np.arange(count)).tolist()
        assert drawn == permutation(count, seed=seed, epoch=epoch, name="clips").tolist()


@given(shards=shards, block=st.integers(1, 6), seed=seeds)
def test_few_shards_are_open_at_a_time(shards: list[int], block: int, seed: int) -> None:
    order = ClipOrder(shards, block=block, seed=seed, name="clips")
    shard_of = [shard for shard, clips in enumerate(shards) for _ in range(clips)]
    drawn = [shard_of[clip] for clip in order.at(np.arange(sum(shards)))]
    first = {shard: drawn.index(shard) for shard in set(drawn)}
    last = {shard: len(drawn) - drawn[::-1].index(shard) for shard in set(drawn)}
    for place in range(len(drawn)):
        assert sum(first[shard] <= place < last[shard] for shard in first) <= block


def test_blocks_are_shuffled_within_and_among_themselves() -> None:
    shards = [10] * 12
    order = ClipOrder(shards, block=4, seed=3, name="clips")
    epochs = [order.at(epoch * 120 + np.arange(120)).tolist() for epoch in range(2)]
    blocks = [
        [{clip // 10 for clip in one[40 * n : 40 * n + 40]} for n in range(3)] for one in epochs
    ]
    assert all(len(shards) == 4 for one in blocks for shards in one)
    assert blocks[0] != blocks[1]  # other shards come together in another epoch
    runs = sum(a // 10 == b // 10 for a, b in pairwise(epochs[0]))
    assert runs < 60  # one shard after the other would be 108; a shuffle of four is about 27


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


@given(shares=weights, size=st.integers(1, 40), batches=st.integers(1, 60))
def test_sources_get_slots_as_they_weigh(shares: list[int], size: int, batches: int) -> None:
    slots = SlotShares(shares, size=size)
    taken = [0] * len(shares)
    for ordinal in range(batches):
        before, counts = slots.at(ordinal)
        assert before == taken  # no place of a source's order is skipped or drawn twice
        assert sum(counts) == size
        assert min(counts) >= 0
        taken = [a + b for a, b in zip(taken, counts, strict=True)]
        for count, share in zip(taken, shares, strict=True):
            owed = (ordinal + 1) * size * share / sum(shares)
            assert abs(count - owed) < len(shares)


@given(shares=weights, size=st.integers(1, 40), ordinals=st.lists(st.integers(0, 60), max_size=8))
def test_slots_are_a_function_of_the_batch(
    shares: list[int], size: int, ordinals: list[int]
) -> None:
    walked = SlotShares(shares, size=size)
    for ordinal in ordinals:
        assert walked.at(ordinal) == SlotShares(shares, size=size).at(ordinal)

"""Which clip is in which slot: whole batches are planned as each of their slots is defined."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.index import Bucket, Index
from orchestrator.data.order import generator, permutation
from orchestrator.data.packing import Packing
from orchestrator.data.pool import Draw, Part, Pool, alone
from orchestrator.data.schedule import SlotShares, is_packed
from orchestrator.data.stream import Stream
from tests.data.clips import PER_SHARD, write_source

SHAPE: Bucket = (1, 8, 8)
SOURCES: tuple[dict[Bucket, int], ...] = (
    {SHAPE: 23, (3, 8, 12): 9},
    {SHAPE: 7},
    {(3, 8, 12): 6, SHAPE: 41},
)
BATCH = 6

Mix = list[tuple[int, float]]
mixes = st.lists(
    st.tuples(st.sampled_from(range(3)), st.sampled_from([0.5, 1.0, 3.0])),
    min_size=1,
    max_size=3,
    unique_by=lambda part: part[0],
)
seeds = st.integers(0, 2**63)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> list[Index]:
    folder = tmp_path_factory.mktemp("sources")
    return [write_source(str(folder / str(n)), shapes) for n, shapes in enumerate(SOURCES)]


def parts_of(indexes: list[Index], mix: Mix) -> tuple[Part, ...]:
    if len(mix) == 1:
        return alone(indexes[mix[0][0]])
    return tuple(Part(name=f"source-{n}", index=indexes[n], weight=weight) for n, weight in mix)


@dataclass(frozen=True)
class Slow:
    """A pool, one slot at a time and from nothing each time."""

    parts: Sequence[Part]
    rows: Mapping[int, Sequence[int]]
    size: int
    block: int
    seed: int
    name: str

    def draw(self, ordinal: int, *, slot: int) -> Draw:
        member, place, name = 0, ordinal * self.size + slot, self.name
        if len(self.parts) > 1:
            weights = [
                part.weight * len(self.rows[n]) / len(part.index)
                for n, part in enumerate(self.parts)
            ]
            firsts, counts = SlotShares(weights, size=self.size).at(ordinal)
            members = [n for n, count in enumerate(counts) for _ in range(count)]
            whose = generator(self.seed, "mix", name, ordinal).permutation(members).tolist()
            member = whose[slot]
            place = firsts[member] + whose[:slot].count(member)
            name = f"{name} of {self.parts[member].name}"
        return Draw(part=member, row=self._row(self.rows[member], place, name), place=place)

    def _row(self, rows: Sequence[int], place: int, name: str) -> int:
        epoch, within = divmod(place, len(rows))
        shards = [[row for row in rows if row // PER_SHARD == n] for n in range(max(rows) + 1)]
        shards = [shard for shard in shards if shard]
        if len(shards) <= self.block:
            return self._shuffled(rows, epoch, name)[within]
        order = self._shuffled(range(len(shards)), epoch, f"{name} shards")
        for first in range(0, len(order), self.block):
            some = [row for n in order[first : first + self.block] for row in shards[n]]
            if within < len(some):
                return self._shuffled(some, epoch, f"{name} block {first // self.block}")[within]
            within -= len(some)
        raise AssertionError(f"place {place} is in no block")

    def _shuffled(self, things: Sequence[int], epoch: int, name: str) -> list[int]:
        order = permutation(len(things), seed=self.seed, epoch=epoch, name=name)
        return [things[one] for one in order.tolist()]


@given(
    mix=mixes,
    size=st.integers(1, 60),
    block=st.integers(1, 12),
    seed=seeds,
    ordinals=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    world_size=st.integers(1, 4),
    data=st.data(),
)
def test_a_batch_is_planned_as_each_slot_is_defined(
    indexes: list[Index],
    mix: Mix,
    size: int,
    block: int,
    seed: int,
    ordinals: list[int],
    world_size: int,
    data: st.DataObject,
) -> None:
    parts = parts_of(indexes, mix)
    rows = {n: part.index.buckets[SHAPE] for n, part in enumerate(parts)}
    pool = Pool(parts, rows=rows, size=size, block=block, seed=seed, name="clips")
    slow = Slow(parts, rows, size=size, block=block, seed=seed, name="clips")
    slots = range(data.draw(st.integers(0, world_size - 1)), size, world_size)
    for ordinal in ordinals:  # in any order: what was planned before changes nothing
        wanted = [slow.draw(ordinal, slot=slot) for slot in slots]
        assert pool.draws(ordinal, slots=slots) == wanted


@given(mix=mixes, images=st.integers(1, 5), seed=seeds, world_size=st.sampled_from([1, 2, 3]))
def test_images_are_planned_as_each_slot_is_defined(
    indexes: list[Index], mix: Mix, images: int, seed: int, world_size: int
) -> None:
    parts = parts_of(indexes, mix)
    stream = Stream(
        alone(indexes[1]),
        seed=seed,
        batch=BATCH,
        rank=world_size - 1,
        world_size=world_size,
        shuffle_shards=3,
        packing=Packing(share=0.5, images=images, parts=parts),
    )
    rows = {n: range(len(part.index)) for n, part in enumerate(parts)}
    slow = Slow(parts, rows, size=BATCH * images, block=3, seed=seed, name="images")
    for step in range(4):
        plan = stream.plan(step)
        assert plan.packed == tuple(
            tuple(slow.draw(step, slot=slot * images + image) for image in range(images))
            if is_packed(slot, seed=seed, position=step, share=0.5)
            else ()
            for slot in plan.slots
        )


@pytest.mark.parametrize(
    ("mix", "block", "digest"),
    [
        ([(0, 1.0)], 16, "6e97e02bd50f18a75368469775694dcebd87412c257b157074eebb0a74abc8cf"),
        ([(2, 1.0)], 3, "c5b71515dc2af9e2727a61515438baacce4a894a5a5f190f5aea5c52a09c02a3"),
        (
            [(0, 1.0), (1, 0.5), (2, 3.0)],
            2,
            "a976ccdf2fbd4e7d5e6be9ce08598f2ab9d37eea96841608149cf4f2e32aed3c",
        ),
    ],
)
def test_plans_are_the_same_as_ever(
    indexes: list[Index], mix: Mix, block: int, digest: str
) -> None:
    # Others would silently repeat clips in a run that goes on.
    stream = Stream(
        parts_of(indexes, mix),
        seed=7,
        batch=BATCH,
        rank=1,
        world_size=2,
        shuffle_shards=block,
        packing=Packing(share=0.3, images=2),
    )
    told = hashlib.sha256()
    for step in range(100):
        plan = stream.plan(step)
        drawn = [(one.part, one.row, one.place) for one in plan.draws]
        packed = [[(one.part, one.row, one.place) for one in some] for some in plan.packed]
        told.update(repr((plan.bucket, plan.ordinal, plan.slots, drawn, packed)).encode())
    assert told.hexdigest() == digest

"""A gang of any size that goes on with a run draws what one rank would have drawn."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from orchestrator.data.audit import Examiner
from orchestrator.data.batch import StepBatch
from orchestrator.data.index import Bucket, Index
from orchestrator.data.packing import Packing
from orchestrator.data.pool import Part, shapes_of
from orchestrator.data.stream import Stream
from orchestrator.data.usage import use_of
from orchestrator.errors import UserError
from tests.data.clips import write_source

SOURCES: tuple[dict[Bucket, int], ...] = (
    {(3, 8, 12): 37, (1, 8, 8): 11},
    {(3, 8, 12): 9, (5, 12, 8): 26},
    {(1, 8, 8): 50},
)
BATCH = 24
WORLD_SIZES = (1, 2, 3, 4, 8)
WORKERS = (0, 1, 4)


@dataclass(frozen=True)
class Gang:
    """So many ranks with so many threads each, that take so many steps before they are killed."""

    world_size: int
    workers: int
    steps: int


gangs = st.builds(
    Gang, st.sampled_from(WORLD_SIZES), st.sampled_from(WORKERS), steps=st.integers(1, 7)
)
mixes = st.lists(
    st.tuples(st.sampled_from(range(3)), st.sampled_from([0.5, 1.0, 3.0])),
    min_size=1,
    max_size=3,
    unique_by=lambda part: part[0],
)


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> list[Index]:
    folder = tmp_path_factory.mktemp("sources")
    return [write_source(str(folder / str(n)), shapes) for n, shapes in enumerate(SOURCES)]


def parts_of(indexes: list[Index], mix: list[tuple[int, float]]) -> list[Part]:
    if len(mix) == 1:
        return [Part(name="", index=indexes[mix[0][0]])]
    return [Part(name=f"source-{n}", index=indexes[n], weight=weight) for n, weight in mix]


def by_slot(batches: list[StepBatch]) -> list[tuple[Any, ...]]:
    """Everything of a global batch that training sees, slot by slot."""
    plan = batches[0].plan
    assert {(one.plan.step, one.plan.bucket, one.plan.size) for one in batches} == {
        (plan.step, plan.bucket, plan.size)
    }
    rows: dict[int, tuple[Any, ...]] = {}
    for batch in batches:
        own = batch.plan
        for number, slot in enumerate(own.slots):
            frames = batch.samples[number]["frames"]
            images = tuple((one.key, one.part) for one in batch.packed[number])
            rows[slot] = (
                batch.keys[number],
                batch.parts[number],
                batch.captions[number],
                frames.shape,
                int(frames.sum()),
                images,
            )
    assert sorted(rows) == list(range(plan.size))
    return [rows[slot] for slot in range(plan.size)]


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # a smaller case takes minutes to find
)
@given(
    mix=mixes,
    life=st.lists(gangs, min_size=1, max_size=4),
    block=st.integers(1, 12),
    multiple=st.sampled_from([1, 2, 3]),
    share=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 2**32),
)
def test_gangs_of_any_size_draw_as_one_rank_does(
    indexes: list[Index],
    mix: list[tuple[int, float]],
    life: list[Gang],
    block: int,
    multiple: int,
    share: float,
    seed: int,
) -> None:
    parts = parts_of(indexes, mix)
    multiples = {} if share else {(1, 8, 8): multiple}
    packing = Packing(share=share, images=2) if share else None

    def stream(rank: int, world_size: int, workers: int) -> Stream:
        return Stream(
            parts,
            seed=seed,
            batch=BATCH,
            rank=rank,
            world_size=world_size,
            multiples=multiples,
            shuffle_shards=block,
            workers=workers,
            packing=packing,
        )

    straight = stream(0, 1, 0)
    examiner = Examiner(parts, batch=BATCH, multiples=multiples, left_out=())
    state, step, came = straight.state_dict(), 0, Counter[tuple[str, str]]()
    for gang in life:
        ranks = [stream(rank, gang.world_size, gang.workers) for rank in range(gang.world_size)]
        for rank in ranks:
            rank.load_state_dict(state)
        for _ in range(gang.steps):
            batches = [rank.next() for rank in ranks]
            assert by_slot(batches) == by_slot([straight.read_step(step)])
            examiner.step([use_of(batch) for batch in batches])
            for batch in batches:
                came.update(zip(batch.parts, batch.keys, strict=True))
            step += 1
        state = json.loads(json.dumps(ranks[0].state_dict()))
        for rank in ranks:
            rank.close()
    report = examiner.report(start=0, stop=step)
    assert report.faults == []
    assert report.clips.total() == sum(came.values())
    _assert_shares(parts, came, steps=step, multiples=multiples)


def _assert_shares(
    parts: list[Part],
    came: Counter[tuple[str, str]],
    *,
    steps: int,
    multiples: Mapping[Bucket, int],
) -> None:
    """No clip of a source and shape comes twice more than another, and sources as they weigh."""
    drawn: dict[tuple[Bucket, str], int] = {}
    weights: dict[tuple[Bucket, str], float] = {}
    for part in parts:
        for bucket, rows in part.index.buckets.items():
            times = [came[part.name, key] for key in part.index.keys(rows)]
            assert max(times) - min(times) <= 1
            drawn[bucket, part.name] = sum(times)
            weights[bucket, part.name] = part.weight * len(rows) / len(part.index)
    sizes = {bucket: BATCH * multiples.get(bucket, 1) for bucket in shapes_of(parts)}
    of_shape = {one: sum(n for (bucket, _), n in drawn.items() if bucket == one) for one in sizes}
    shares = {one: sum(w for (bucket, _), w in weights.items() if bucket == one) for one in sizes}
    turns = {bucket: shares[bucket] / size for bucket, size in sizes.items()}
    for bucket, size in sizes.items():
        due = steps * turns[bucket] / sum(turns.values())
        assert abs(of_shape[bucket] / size - due) <= 1 + 1e-9  # whole steps go to a shape
    for (bucket, part), clips in drawn.items():
        due = of_shape[bucket] * weights[bucket, part] / shares[bucket]
        assert abs(clips - due) <= 1 + 1e-9  # and whole slots to a source


def test_state_of_another_mix_is_refused(indexes: list[Index], tmp_path: Path) -> None:
    def stream(weight: float, *, block: int = 16, is_swapped: bool = False) -> Stream:
        parts = parts_of(indexes, [(0, 1.0), (2, weight)])
        if is_swapped:
            parts.reverse()
        return Stream(
            parts, seed=0, batch=BATCH, rank=0, world_size=1, shuffle_shards=block, workers=0
        )

    state = stream(1.0).state_dict()
    stream(1.0).load_state_dict(json.loads(json.dumps(state)))
    with pytest.raises(UserError, match="the checkpoint was made with index="):
        stream(2.0).load_state_dict(state)
    with pytest.raises(UserError, match="the checkpoint was made with index="):
        stream(1.0, is_swapped=True).load_state_dict(state)
    with pytest.raises(UserError, match=r"made with shuffle_shards=None, seen 2"):
        stream(1.0, block=2).load_state_dict(state)

"""Clips that cannot be read: others stand in, the same ones for everybody, and not too many."""

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from orchestrator.data.audit import Examiner, Report
from orchestrator.data.bad import BadSample, BadSampleError, BadSamples
from orchestrator.data.batch import StepBatch
from orchestrator.data.index import Bucket, Index
from orchestrator.data.packing import Packing
from orchestrator.data.pool import Part, alone
from orchestrator.data.reader import Reader
from orchestrator.data.stream import Stream
from orchestrator.data.usage import Use, use_of
from tests.data.clips import CountingStore, flip_bit, frames_of, write_source

WIDE: Bucket = (3, 8, 12)
TALL: Bucket = (5, 12, 8)
SHAPES = {WIDE: 7, TALL: 5}
BAD = (2, 3, 6)  # of the wide ones, the last of them too
STAND_INS = {2: 4, 3: 4, 6: 0}
BATCH = 4
STEPS = 9


def damaged(uri: str) -> Index:
    index = write_source(uri, SHAPES)
    for row in BAD:
        sample = index.sample(row)
        flip_bit(index.store, sample.shard, offset=sample.members[0].offset + 9)
    return index


@pytest.fixture(params=["folder", "memory"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    places = {"folder": str(tmp_path / "clips"), "memory": f"memory://{uuid4().hex}"}
    return damaged(places[request.param])


def open_reader(index: Index, folder: Path, *, bad: BadSamples) -> Reader:
    return Reader(
        index, cache_dir=str(folder / "cache"), cache_bytes=10**6, memory_bytes=0, bad=bad
    )


def key_of(row: int) -> str:
    return f"clip-{row:03d}"


@pytest.mark.parametrize("first", [0, 3, 6])
def test_the_next_good_clip_of_the_bucket_stands_in(
    index: Index, tmp_path: Path, first: int
) -> None:
    bad = BadSamples(most=3)
    reader = open_reader(index, tmp_path, bad=bad)
    rows = [(first + step) % 7 for step in range(7)]
    for _ in range(2):  # found, and known
        read = reader.read_all(rows)
        for row, (sample, arrays) in zip(rows, read, strict=True):
            wanted = STAND_INS.get(row, row)
            assert sample.key == key_of(wanted)
            np.testing.assert_array_equal(arrays["frames"], frames_of(wanted, WIDE))
            assert reader.instead(row, read=sample) == (key_of(row) if row in BAD else None)
    assert [(one.row, one.key) for one in bad] == [(row, key_of(row)) for row in BAD]


def test_a_shard_of_many_bad_clips_is_fetched_twice(tmp_path: Path) -> None:
    index = damaged(f"memory://{uuid4().hex}")
    store = index.store = CountingStore(index.store)
    bad = BadSamples(most=3)
    open_reader(index, tmp_path, bad=bad).read_all(range(7))
    assert len(bad) == 3
    assert store.reads == dict.fromkeys(["shard-000000.tar", "shard-000001.tar"], 2)


def test_one_bad_clip_too_many_is_named_with_their_number(index: Index, tmp_path: Path) -> None:
    reader = open_reader(index, tmp_path, bad=BadSamples(most=2))
    for _ in range(2):  # the same ones again are no more
        assert [reader.read(row)[0].key for row in (2, 3)] == [key_of(4), key_of(4)]
    with pytest.raises(BadSampleError) as caught:
        reader.read(6)
    assert caught.value.exit_code == 2
    text = str(caught.value)
    assert text.startswith(f"{index.store.uri}/shard-000001.tar: clip-006.npz is damaged: xxh64=")
    assert text.endswith(" (3 bad samples, wanted at most data.bad_samples=2)")


def test_very_many_bad_clips_may_follow_each_other(tmp_path: Path) -> None:
    index = write_source(str(tmp_path / "clips"), {(1, 8, 8): 300})
    for row in range(299):
        sample = index.sample(row)
        flip_bit(index.store, sample.shard, offset=sample.members[0].offset)
    bad = BadSamples(most=299)
    sample, _ = open_reader(index, tmp_path, bad=bad).read(0)
    assert sample.key == key_of(299)
    assert len(bad) == 299


def test_what_others_found_is_not_read(index: Index, tmp_path: Path) -> None:
    bad = BadSamples(most=3)
    bad.learn([BadSample(index=index.digest, row=0, key=key_of(0), why="another rank said so")])
    sample, _ = open_reader(index, tmp_path, bad=bad).read(0)
    assert sample.key == key_of(1)
    assert bad.take_new() == []


def test_a_bucket_without_a_good_clip_ends_the_run(tmp_path: Path) -> None:
    index = write_source(str(tmp_path), {WIDE: 2})
    for row in range(2):
        sample = index.sample(row)
        flip_bit(index.store, sample.shard, offset=sample.members[0].offset)
    with pytest.raises(BadSampleError, match="all 2 samples of the bucket of row 0 are bad"):
        open_reader(index, tmp_path, bad=BadSamples(most=9)).read(0)


def batches(
    parts: Sequence[Part], folder: Path, *, world_size: int, packing: Packing | None = None
) -> list[list[StepBatch]]:
    def stream(rank: int) -> Stream:
        return Stream(
            parts,
            seed=5,
            batch=BATCH,
            rank=rank,
            world_size=world_size,
            cache_dir=str(folder / f"cache-{world_size}-{rank}"),
            bad=BadSamples(most=len(BAD)),
            packing=packing,
        )

    streams = [stream(rank) for rank in range(world_size)]
    return [[one.read_step(step) for one in streams] for step in range(STEPS)]


def by_slot(steps: list[list[StepBatch]]) -> dict[tuple[int, int], tuple[str, str | None]]:
    return {
        (one.plan.step, slot): (key, instead)
        for ranks in steps
        for one in ranks
        for slot, key, instead in zip(one.plan.slots, one.keys, one.instead, strict=True)
    }


def test_every_world_size_reads_the_same_stand_ins(index: Index, tmp_path: Path) -> None:
    one_rank = by_slot(batches(alone(index), tmp_path, world_size=1))
    assert {own for _, own in one_rank.values()} == {None, *map(key_of, BAD)}
    for key, own in one_rank.values():
        if own is not None:
            assert key == key_of(STAND_INS[int(own.removeprefix("clip-"))])
    assert by_slot(batches(alone(index), tmp_path, world_size=2)) == one_rank
    assert by_slot(batches(alone(index), tmp_path, world_size=4)) == one_rank


def report_of(parts: Sequence[Part], steps: Sequence[Sequence[Use]]) -> Report:
    examiner = Examiner(parts, batch=BATCH, multiples={}, left_out=())
    for uses in steps:
        examiner.step(uses)
    return examiner.report(start=0, stop=STEPS)


@pytest.mark.parametrize("packing", [None, Packing(share=0.5, images=2)])
def test_an_audit_counts_bad_clips_and_not_their_stand_ins(
    index: Index, tmp_path: Path, packing: Packing | None
) -> None:
    ranks = batches(alone(index), tmp_path, world_size=2, packing=packing)
    steps = [[use_of(one) for one in some] for some in ranks]
    report = report_of(alone(index), steps)
    assert report.faults == []
    whole = [one for one in report.epochs if one.bucket == WIDE and one.is_whole]
    assert whole
    assert {(one.used, one.bad, one.clips) for one in whole} == {(4, 3, 7)}
    assert {one.bad for one in report.epochs if one.bucket == TALL} == {0}
    silent = [[use.model_copy(update={"instead": {}}) for use in uses] for uses in steps]
    faults = report_of(alone(index), silent).faults
    assert any("came more than once" in fault for fault in faults)
    assert any("never came" in fault for fault in faults)


def test_a_mix_counts_bad_clips_of_each_part(index: Index, tmp_path: Path) -> None:
    whole = write_source(str(tmp_path / "whole"), SHAPES)
    parts = (Part(name="torn", index=index, weight=3.0), Part(name="whole", index=whole))
    steps = [[use_of(one) for one in some] for some in batches(parts, tmp_path, world_size=2)]
    report = report_of(parts, steps)
    assert report.faults == []
    assert sum(one.bad for one in report.epochs if one.part == "torn") >= len(BAD)
    assert {one.bad for one in report.epochs if one.part == "whole"} == {0}

"""The stream of batches: the same for every world size, store and place to start from."""

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from orchestrator.data import ahead
from orchestrator.data.batch import Plan, StepBatch
from orchestrator.data.fetcher import Fetcher
from orchestrator.data.index import Bucket, Index
from orchestrator.data.packing import Packing
from orchestrator.data.pool import alone
from orchestrator.data.stream import PREFETCHED_STEPS, Stream
from orchestrator.errors import UnavailableError, UserError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.store import join_uri, open_store
from tests.data.clips import frames_of, write_source

WIDE: Bucket = (3, 8, 12)
TALL: Bucket = (5, 12, 8)
STILL: Bucket = (1, 8, 8)
SHAPES = {WIDE: 13, TALL: 6, STILL: 4}
BATCH = 24
STEPS = 7


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.s3)])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    places = {"folder": str(tmp_path / "clips"), "memory": f"memory://{uuid4().hex}"}
    if request.param == "s3":
        return write_source(join_uri(request.getfixturevalue("bucket"), "clips"), SHAPES)
    return write_source(places[request.param], SHAPES)


@pytest.fixture
def local_index(tmp_path: Path) -> Index:
    return write_source(str(tmp_path / "clips"), SHAPES)


def open_stream(
    index: Index, folder: Path, *, rank: int = 0, world_size: int = 1, seed: int = 5
) -> Stream:
    return Stream(
        alone(index),
        seed=seed,
        batch=BATCH,
        rank=rank,
        world_size=world_size,
        cache_dir=str(folder / "cache"),
    )


def take(stream: Stream, steps: int) -> list[StepBatch]:
    return [stream.next() for _ in range(steps)]


def assert_same(some: list[StepBatch], others: list[StepBatch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert (one.plan, one.keys, one.captions) == (other.plan, other.keys, other.captions)
        for arrays, others_arrays in zip(one.samples, other.samples, strict=True):
            np.testing.assert_array_equal(arrays["frames"], others_arrays["frames"])


def threads_of_streams() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "stream"]


def test_resumed_stream_equals_a_straight_one(index: Index, tmp_path: Path) -> None:
    stream = open_stream(index, tmp_path)
    states = []
    straight = []
    for _ in range(STEPS):
        states.append(json.loads(json.dumps(stream.state_dict())))
        straight.append(stream.next())
    stream.close()
    for step, state in enumerate(states):
        resumed = open_stream(index, tmp_path)
        resumed.load_state_dict(state)
        assert_same(take(resumed, STEPS - step), straight[step:])
        resumed.close()


def test_clips_are_what_was_written(index: Index, tmp_path: Path) -> None:
    stream = open_stream(index, tmp_path)
    for batch in take(stream, STEPS):
        for key, arrays, captions in zip(batch.keys, batch.samples, batch.captions, strict=True):
            number = int(key.removeprefix("clip-"))
            assert captions == (f"clip {number}", f"noise number {number}")
            np.testing.assert_array_equal(arrays["frames"], frames_of(number, batch.plan.bucket))
    stream.close()


@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_every_world_size_draws_the_same_global_batches(
    local_index: Index, tmp_path: Path, world_size: int
) -> None:
    alone = open_stream(local_index, tmp_path)
    ranks = [
        open_stream(local_index, tmp_path, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for step in range(STEPS):
        whole = alone.read_step(step)
        parts = [rank.read_step(step) for rank in ranks]
        assert {part.plan.bucket for part in parts} == {whole.plan.bucket}
        assert {len(part.keys) for part in parts} == {BATCH // world_size}
        by_slot = {
            slot: key
            for part in parts
            for slot, key in zip(part.plan.slots, part.keys, strict=True)
        }
        assert by_slot == dict(zip(whole.plan.slots, whole.keys, strict=True))


def test_another_world_size_goes_on_from_a_state(local_index: Index, tmp_path: Path) -> None:
    alone = open_stream(local_index, tmp_path)
    take(alone, 3)
    state = alone.state_dict()
    assert set(state) == {"step", "seed", "index", "sizes"}
    assert state["step"] == 3  # not where the thread that reads ahead is
    rest = take(alone, 2)
    alone.close()
    for rank in range(2):
        half = open_stream(local_index, tmp_path, rank=rank, world_size=2)
        half.load_state_dict(state)
        assert [one.keys for one in take(half, 2)] == [one.keys[rank::2] for one in rest]
        half.close()


def test_each_step_draws_from_one_shape(local_index: Index, tmp_path: Path) -> None:
    stream = open_stream(local_index, tmp_path)
    steps = [stream.read_step(step) for step in range(23)]
    for batch in steps:
        assert {arrays["frames"].shape for arrays in batch.samples} == {(*batch.plan.bucket, 3)}
    drawn = [batch.plan.bucket for batch in steps]
    assert {bucket: drawn.count(bucket) for bucket in SHAPES} == SHAPES


def test_close_leaves_no_thread_and_loses_no_step(local_index: Index, tmp_path: Path) -> None:
    straight = open_stream(local_index, tmp_path)
    wanted = take(straight, 4)
    straight.close()
    stream = open_stream(local_index, tmp_path)
    first = take(stream, 2)
    assert threads_of_streams()
    stream.close()
    stream.close()
    assert not threads_of_streams()
    assert_same(first + take(stream, 2), wanted)
    stream.close()
    assert not threads_of_streams()


def test_close_does_not_wait_for_a_store_that_is_away(
    local_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, back = threading.Event(), threading.Event()
    read_plan = Stream.read

    def waits(stream: Stream, plan: Plan) -> StepBatch:
        if plan.step:
            begun.set()
            assert back.wait(60)
        return read_plan(stream, plan)

    monkeypatch.setattr(Stream, "read", waits)
    monkeypatch.setattr(ahead, "_STOP_S", 0.0)
    stream = open_stream(local_index, tmp_path)
    stream.next()
    assert begun.wait(20)
    closing = threading.Thread(target=stream.close)
    closing.start()
    closing.join(20)
    is_closed = not closing.is_alive()
    back.set()
    closing.join()
    assert is_closed


def test_close_keeps_no_shard_open(tmp_path: Path) -> None:
    index = write_source(f"memory://{uuid4().hex}", SHAPES)
    stream = open_stream(index, tmp_path)
    take(stream, 2)
    folder = f"{tmp_path}/cache/"

    def is_open() -> bool:
        paths: list[str] = []
        for number in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):
                paths.append(os.readlink(f"/proc/self/fd/{number}"))
        return any(path.startswith(folder) and path.endswith(".tar") for path in paths)

    assert is_open()
    stream.close()
    assert not is_open()


def test_error_ahead_reaches_every_later_call(local_index: Index, tmp_path: Path) -> None:
    store = open_store(local_index.store.uri)
    store.delete_prefix("shard-")
    stream = open_stream(local_index, tmp_path)
    for _ in range(2):
        with pytest.raises(NotFoundError, match=r"/shard-\d+\.tar: the shard is missing") as told:
            stream.next()
        assert "\n" not in str(told.value)
    stream.close()
    assert not threads_of_streams()


def test_nothing_is_read_behind_a_step_that_cannot_be(
    local_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is down would be waited for once more, at the end."""
    read: list[int] = []
    read_plan = Stream.read

    def noted(stream: Stream, plan: Plan) -> StepBatch:
        read.append(plan.step)
        if plan.step == 1:
            raise UnavailableError("down")
        return read_plan(stream, plan)

    monkeypatch.setattr(Stream, "read", noted)
    stream = open_stream(local_index, tmp_path)
    stream.next()
    with pytest.raises(UnavailableError, match="down"):
        stream.next()
    stream.close()
    assert read == [0, 1]


def test_reading_ahead_is_bounded(
    local_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = threading.Event()
    read: list[int] = []
    read_plan = Stream.read

    def noted(stream: Stream, plan: Plan) -> StepBatch:
        read.append(plan.step)
        if len(read) == PREFETCHED_STEPS + 1:  # one of them is taken
            reached.set()
        return read_plan(stream, plan)

    monkeypatch.setattr(Stream, "read", noted)
    stream = open_stream(local_index, tmp_path)
    stream.next()
    assert reached.wait(60)
    stream.close()
    assert read == list(range(PREFETCHED_STEPS + 1))


def test_shards_of_steps_to_come_are_fetched_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_source(f"memory://{uuid4().hex}", {WIDE: 96})
    wanted: list[list[str]] = []
    monkeypatch.setattr(Fetcher, "want", lambda _, shards: wanted.append(list(shards)))
    stream = open_stream(index, tmp_path)
    coming = [index.shard(draw.row) for step in range(4) for draw in stream.plan(step).draws]
    stream.next()
    assert wanted[0] == list(dict.fromkeys(coming))  # an epoch: the first of them first
    stream.close()
    assert wanted[-1] == []


def test_waiting_is_counted_once(local_index: Index, tmp_path: Path) -> None:
    stream = open_stream(local_index, tmp_path)
    stream.next()
    assert stream.take_wait_s() > 0.0
    assert stream.take_wait_s() == 0.0
    stream.close()


def test_state_of_other_clips_or_another_order_is_refused(
    local_index: Index, tmp_path: Path
) -> None:
    stream = open_stream(local_index, tmp_path)
    state = stream.state_dict()
    for other in ({**state, "seed": 6}, {**state, "index": "0" * 64}):
        with pytest.raises(UserError, match="use the same data or a new --run"):
            stream.load_state_dict(other)


def test_state_of_batches_of_another_size_is_refused(local_index: Index) -> None:
    def stream(batch: int, *, multiple: int) -> Stream:
        return Stream(
            alone(local_index),
            seed=5,
            batch=batch,
            rank=0,
            world_size=1,
            multiples={STILL: multiple},
        )

    state = json.loads(json.dumps(stream(BATCH, multiple=2).state_dict()))
    stream(BATCH, multiple=2).load_state_dict(state)
    for other in (stream(BATCH // 2, multiple=2), stream(BATCH, multiple=1)):
        with pytest.raises(UserError, match=r"made with sizes=\{'3x8x12': 24, .*, seen \{"):
            other.load_state_dict(state)
    del state["sizes"]  # as older ones are
    stream(BATCH, multiple=2).load_state_dict(state)


def test_source_without_clips_is_refused(tmp_path: Path) -> None:
    empty = write_source(str(tmp_path / "none"), {})
    with pytest.raises(UserError, match="no clips, wanted at least one"):
        open_stream(empty, tmp_path)


def test_packed_slots_hold_images_of_other_clips(local_index: Index, tmp_path: Path) -> None:
    packing = Packing(share=0.5, images=3)

    def batches(world_size: int) -> list[StepBatch]:
        parts = [
            Stream(
                alone(local_index),
                seed=5,
                batch=BATCH,
                rank=rank,
                world_size=world_size,
                cache_dir=str(tmp_path / "cache"),
                packing=packing,
            )
            for rank in range(world_size)
        ]
        return [part.read_step(step) for step in range(STEPS) for part in parts]

    def by_slot(parts: list[StepBatch]) -> dict[tuple[int, int], tuple[tuple[str, ...], ...]]:
        return {
            (part.plan.step, slot): tuple(image.captions for image in images)
            for part in parts
            for slot, images in zip(part.plan.slots, part.packed, strict=True)
        }

    whole = by_slot(batches(1))
    assert whole == by_slot(batches(3))
    packed = [images for images in whole.values() if images]
    assert 0.35 < len(packed) / len(whole) < 0.65
    assert all(len(images) == 3 for images in packed)
    assert any(len(set(images)) == 3 for images in packed)


def test_packed_slots_hold_images_of_their_own_source(local_index: Index, tmp_path: Path) -> None:
    images = write_source(str(tmp_path / "images"), {(1, 8, 8): 5, (1, 16, 16): 4})
    packing = Packing(share=0.5, images=3, parts=alone(images))

    def stream(rank: int, world_size: int) -> Stream:
        return Stream(
            alone(local_index),
            seed=5,
            batch=BATCH,
            rank=rank,
            world_size=world_size,
            packing=packing,
        )

    def packed(parts: list[Stream]) -> dict[tuple[int, int], tuple[tuple[str, ...], ...]]:
        batches = [part.read_step(step) for step in range(STEPS) for part in parts]
        return {
            (batch.plan.step, slot): tuple(image.captions for image in images)
            for batch in batches
            for slot, images in zip(batch.plan.slots, batch.packed, strict=True)
            if images
        }

    one_rank = stream(0, 1)
    whole = packed([one_rank])
    assert whole == packed([stream(rank, 3) for rank in range(3)])
    assert len({captions for found in whole.values() for captions in found}) == len(images)
    shapes = {
        image.sample["frames"].shape for found in one_rank.read_step(0).packed for image in found
    }
    assert shapes == {(1, 8, 8, 3), (1, 16, 16, 3)}
    state = one_rank.state_dict()
    stream(0, 1).load_state_dict(state)
    with pytest.raises(UserError, match="the checkpoint was made with images="):
        open_stream(local_index, tmp_path).load_state_dict(state)


def test_state_of_another_order_of_packed_images_is_refused(tmp_path: Path) -> None:
    clips = write_source(str(tmp_path / "clips"), {WIDE: 8})  # in as many shards as a block has
    images = write_source(str(tmp_path / "images"), {STILL: 72})  # in eighteen

    def stream(block: int) -> Stream:
        return Stream(
            alone(clips),
            seed=5,
            batch=BATCH,
            rank=0,
            world_size=1,
            shuffle_shards=block,
            packing=Packing(share=0.5, images=3, parts=alone(images)),
        )

    state = json.loads(json.dumps(stream(16).state_dict()))
    stream(16).load_state_dict(state)
    older = {
        name: value for name, value in state.items() if name not in ("sizes", "shuffle_shards")
    }
    stream(16).load_state_dict(older)
    for said in (state, older):
        with pytest.raises(UserError, match="made with shuffle_shards=16, seen 2"):
            stream(2).load_state_dict(said)


def test_stream_without_captions_has_none_to_give(local_index: Index) -> None:
    stream = Stream(
        alone(local_index),
        seed=5,
        batch=BATCH,
        rank=0,
        world_size=1,
        captions=False,
        packing=Packing(share=1.0, images=2),
    )
    batch = stream.read_step(0)
    assert set(batch.captions) == {()}
    assert {image.captions for images in batch.packed for image in images} == {()}


def test_view_is_what_is_kept_of_a_sample(local_index: Index) -> None:
    seen: list[int] = []

    def view(arrays: Mapping[str, Any]) -> dict[str, Any]:
        seen.append(1)
        return {"mean": arrays["frames"].mean()}

    stream = Stream(alone(local_index), seed=5, batch=BATCH, rank=0, world_size=1, view=view)
    first, again = stream.read_step(0), stream.read_step(0)
    assert [list(sample) for sample in first.samples] == [["mean"]] * BATCH
    assert first.samples == again.samples
    assert len(seen) == len(set(first.keys))


def test_left_out_batches_are_read_by_no_step_at_any_world_size(
    local_index: Index, tmp_path: Path
) -> None:
    straight = open_stream(local_index, tmp_path)
    wanted = [straight.read_step(position) for position in (0, 1, 3, 6, 7)]
    stream = open_stream(local_index, tmp_path)
    first = take(stream, 2)
    stream.leave_out([5, 2])
    stream.leave_out([4, 5])
    rest = take(stream, 1)
    state = json.loads(json.dumps(stream.state_dict()))
    assert state == {**straight.state_dict(), "step": 3, "left_out": [2, 4, 5]}
    rest += take(stream, 2)
    stream.close()
    assert [one.plan.step for one in first + rest] == [0, 1, 2, 3, 4]
    assert [one.plan.position for one in first + rest] == [one.plan.position for one in wanted]
    assert [one.keys for one in first + rest] == [one.keys for one in wanted]
    for rank in range(2):
        half = open_stream(local_index, tmp_path, rank=rank, world_size=2)
        half.load_state_dict(state)
        assert [one.keys for one in take(half, 2)] == [one.keys[rank::2] for one in wanted[3:]]
        half.close()

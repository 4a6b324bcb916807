"""Samples whose bucket is apart from what is stored, through reader and stream."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from orchestrator.data.bad import BadSamples
from orchestrator.data.buckets import RatedBucket, parse_bucket
from orchestrator.data.decode import decode, npy_bytes, npz_bytes
from orchestrator.data.fit import fit_array
from orchestrator.data.index import Bucket, Index, write_index
from orchestrator.data.packing import Packing
from orchestrator.data.pool import alone
from orchestrator.data.reader import Reader
from orchestrator.data.seek import frames_at, pyav_frames
from orchestrator.data.shards import NewSample, write_shard
from orchestrator.data.stream import Stream
from orchestrator.errors import UserError
from orchestrator.storage.store import open_store
from tests.data.clips import flip_bit
from tests.data.films import film_of, number_of, numbered
from tests.data.test_reader import Seen

STORED: Bucket = (60, 48, 128)
SMALL = parse_bucket("9x24x40@8")
SAME_SIZE = parse_bucket("9x48x128@8")
LAST = 60 - (8 * 3 + 1)  # first frame of the last window
DRAWS = (0.0, 0.3, 0.999999)


@cache
def members_of(kind: str) -> Mapping[str, bytes]:
    frames = numbered(STORED[0])
    match kind:
        case "mp4":
            return {"mp4": film_of(frames, options={"g": "24", "bf": "2", "threads": "1"})}
        case "npz":
            return {"npz": npz_bytes(frames=frames, mask=np.arange(3))}
        case "frames.npy":
            return {"frames.npy": npy_bytes(frames), "mask.npy": npy_bytes(np.arange(3))}
        case _:
            return {"npy": npy_bytes(frames)}


def clip(kind: str = "mp4", *, number: int = 0, seen_as: RatedBucket | None = SMALL) -> NewSample:
    return NewSample(
        key=f"clip-{number:03d}",
        members=members_of(kind),
        bucket=STORED,
        fps=24.0,
        source="films",
        captions=("a film",),
        labels={},
        seen_as=seen_as,
    )


def write(folder: Path, *clips: NewSample) -> Index:
    store = open_store(str(folder / "films"))
    write_index(store, [write_shard(store, "a.tar", clips)], origin={})
    return Index.open(store.uri)


def open_reader(index: Index, *, memory_bytes: int = 10**9) -> Reader:
    return Reader(index, cache_dir=None, cache_bytes=10**9, memory_bytes=memory_bytes)


@pytest.mark.parametrize("kind", ["mp4", "npz", "npy", "frames.npy"])
@pytest.mark.parametrize("seen_as", [SMALL, SAME_SIZE], ids=str)
def test_window_is_cut_from_all_that_is_stored(
    tmp_path: Path, kind: str, seen_as: RatedBucket
) -> None:
    reader = open_reader(write(tmp_path, clip(kind, seen_as=seen_as)))
    whole = decode(members_of(kind))
    for draw in DRAWS:
        sample, arrays = reader.read(0, draw=draw)
        assert (sample.bucket, sample.fps) == (seen_as.shape, 8.0)
        frames = arrays["frames"]
        first = int(draw * (LAST + 1))
        wanted = whole["frames"][first : first + 25 : 3]
        assert frames.shape == (*seen_as.shape, 3)
        assert frames.dtype == np.uint8
        # torchcodec turns colours into pixels by itself; videos are scaled before they are pixels.
        exact = kind != "mp4" or (seen_as is SAME_SIZE and frames_at() is pyav_frames)
        apart = np.abs(frames.astype(int) - fit_array(wanted, size=seen_as.shape[1:]))
        assert apart.mean() <= (0 if exact else 8)
        if seen_as is SAME_SIZE:
            assert [number_of(one) for one in frames] == [first + 3 * at for at in range(9)]
        if "mask" in whole:
            np.testing.assert_array_equal(arrays["mask"], whole["mask"])


def test_bucket_of_all_that_is_stored_reads_what_no_bucket_reads(tmp_path: Path) -> None:
    whole = RatedBucket(STORED, 24.0)
    index = write(tmp_path, clip(seen_as=whole), clip(number=1, seen_as=None))
    (_, one), (_, other) = (open_reader(index).read(row, draw=0.7) for row in range(2))
    np.testing.assert_array_equal(one["frames"], other["frames"])
    np.testing.assert_array_equal(one["frames"], decode(members_of("mp4"))["frames"])


def decoded(index: Index) -> int:
    """How often a clip is decoded that is read with three draws."""
    seen = Seen()
    reader = Reader(index, cache_dir=None, cache_bytes=10**9, memory_bytes=10**9, view=seen)
    for draw in DRAWS:
        reader.read(0, draw=draw)
    return seen.clips


def test_a_clip_may_be_read_twice_at_once(tmp_path: Path) -> None:
    index = write(tmp_path, clip("npy", seen_as=SAME_SIZE), clip("npy", number=1, seen_as=None))
    rows = (0, 1, 0, 0, 1)
    read = open_reader(index).read_all(rows, draws=(0.0, 0.0, 0.5, 0.0, 0.9))
    firsts = [number_of(arrays["frames"][0]) for _, arrays in read]
    assert firsts == [0, 0, (LAST + 1) // 2, 0, 0]
    assert [sample.bucket for sample, _ in read] == [(SAME_SIZE.shape, STORED)[row] for row in rows]


def test_windows_are_kept_only_where_every_draw_gives_the_same(tmp_path: Path) -> None:
    only = parse_bucket("20x24x40@8")  # 58 of the 60 frames; three places
    assert decoded(write(tmp_path / "a", clip())) == 3
    assert decoded(write(tmp_path / "b", clip(seen_as=only))) == 3
    all_frames = parse_bucket("60x24x40@24")
    assert decoded(write(tmp_path / "c", clip(seen_as=all_frames))) == 1
    assert decoded(write(tmp_path / "d", clip(seen_as=None))) == 1


def test_damage_outside_the_window_is_found_before_decoding(tmp_path: Path) -> None:
    index = write(tmp_path, clip())
    (member,) = index.sample(0).members
    flip_bit(index.store, "a.tar", offset=member.offset + member.size - 1)
    with pytest.raises(UserError, match=r"a\.tar: clip-000\.mp4 is damaged: xxh64="):
        open_reader(index).read(0, draw=0.0)


def test_a_window_of_the_stand_in_is_where_the_bad_clips_would_be(tmp_path: Path) -> None:
    index = write(tmp_path, *(clip("npy", number=one, seen_as=SAME_SIZE) for one in range(3)))
    (member,) = index.sample(0).members
    flip_bit(index.store, "a.tar", offset=member.offset + member.size - 1)
    reader = Reader(
        index, cache_dir=None, cache_bytes=10**9, memory_bytes=0, bad=BadSamples(most=1)
    )
    for _ in range(2):  # found, and known
        read = reader.read_all((0, 1, 0), draws=(0.5, 0.0, 0.0))
        assert [sample.key for sample, _ in read] == ["clip-001"] * 3
        firsts = [number_of(arrays["frames"][0]) for _, arrays in read]
        assert firsts == [(LAST + 1) // 2, 0, 0]


@pytest.mark.parametrize(
    ("bucket", "told"),
    [
        ((50, 48, 128), "60 frames, wanted 50"),
        ((60, 50, 128), "a frame of 48x128 pixels, wanted 50x128"),
    ],
)
def test_video_that_is_not_what_the_index_says_is_named(
    tmp_path: Path, bucket: Bucket, told: str
) -> None:
    index = write(tmp_path, replace(clip(), bucket=bucket))
    with pytest.raises(UserError, match=rf"a\.tar: clip-000 cannot be decoded: {told}$"):
        open_reader(index).read(0)


def test_array_that_is_not_what_the_index_says_is_named(tmp_path: Path) -> None:
    index = write(tmp_path, replace(clip("npy"), bucket=(50, 48, 128)))
    with pytest.raises(UserError, match=r"clip-000 cannot be decoded: frames are uint8 \(60, 48"):
        open_reader(index).read(0)


CLIPS = 4
BATCH = 4


def windows(index: Index, *, world_size: int, steps: range, seed: int = 5) -> dict[str, list[int]]:
    """First frames of the windows of every clip, in the order of steps."""
    firsts: dict[str, list[int]] = defaultdict(list)
    streams = [
        Stream(alone(index), seed=seed, batch=BATCH, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    for step in steps:
        for stream in streams:
            batch = stream.read_step(step)
            assert (batch.plan.bucket, set(batch.fps)) == (SAME_SIZE.shape, {8.0})
            for key, arrays in zip(batch.keys, batch.samples, strict=True):
                numbers = [number_of(frame) for frame in arrays["frames"]]
                assert numbers == [numbers[0] + 3 * at for at in range(9)]
                firsts[key].append(numbers[0])
    return firsts


@pytest.fixture
def four(tmp_path: Path) -> Index:
    return write(
        tmp_path, *(clip("npy", number=number, seen_as=SAME_SIZE) for number in range(CLIPS))
    )


def test_windows_are_the_same_at_every_world_size_and_from_wherever_one_starts(
    four: Index,
) -> None:
    alone = windows(four, world_size=1, steps=range(5))
    assert windows(four, world_size=4, steps=range(5)) == alone
    late = windows(four, world_size=2, steps=range(2, 5))
    assert late == {key: firsts[2:] for key, firsts in alone.items()}
    assert windows(four, world_size=1, steps=range(5), seed=6) != alone


def test_epochs_see_other_windows_of_a_clip(four: Index) -> None:
    firsts = windows(four, world_size=1, steps=range(30))
    assert set(firsts) == {f"clip-{number:03d}" for number in range(CLIPS)}
    for seen in firsts.values():
        assert len(seen) == 30
        assert len(set(seen)) > 10  # of 36
        assert 0 <= min(seen) < max(seen) <= LAST


def test_images_of_packed_slots_are_from_windows_too(four: Index) -> None:
    def packed(world_size: int) -> list[np.ndarray]:
        packing = Packing(share=1.0, images=2)
        streams = [
            Stream(
                alone(four), seed=5, batch=BATCH, rank=rank, world_size=world_size, packing=packing
            )
            for rank in range(world_size)
        ]
        slots: dict[int, list[np.ndarray]] = {}
        for stream in streams:
            batch = stream.read_step(3)
            for slot, images in zip(batch.plan.slots, batch.packed, strict=True):
                slots[slot] = [image.sample["frames"] for image in images]
        return [frames for slot in sorted(slots) for frames in slots[slot]]

    one_rank, two_ranks = packed(1), packed(2)
    assert len(one_rank) == len(two_ranks) == 2 * BATCH
    for one, other in zip(one_rank, two_ranks, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len({number_of(frames[0]) for frames in one_rank}) > 1

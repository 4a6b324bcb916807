"""Samples as arrays: checked against their hashes, kept within a budget, errors that name."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from orchestrator.data.decode import npz_bytes
from orchestrator.data.fetcher import Fetcher
from orchestrator.data.index import HEAD, Bucket, Index, write_index
from orchestrator.data.reader import Reader, View
from orchestrator.data.shards import NewSample, write_shard
from orchestrator.errors import UnavailableError, UserError
from orchestrator.storage.errors import NotFoundError
from orchestrator.storage.files import OpenFile
from orchestrator.storage.store import Store, open_store
from tests.data.clips import CountingStore, flip_bit, flip_bit_in_place, frames_of, write_source
from tests.data.version_1 import age_index

SHAPE: Bucket = (3, 8, 8)
CLIPS = 6
CLIP_BYTES = 3 * 8 * 8 * 3


def counted(index: Index) -> CountingStore:
    store = CountingStore(index.store)
    index.store = store
    return store


def open_reader(
    index: Index, folder: Path, *, memory_clips: int = 0, view: View | None = None
) -> Reader:
    return Reader(
        index,
        cache_dir=str(folder / "cache"),
        cache_bytes=1_000_000,
        memory_bytes=memory_clips * CLIP_BYTES,
        view=view,
    )


def damage(index: Index, *, row: int) -> str:
    """Flips a bit in a sample's frames; returns where the error should point."""
    sample = index.sample(row)
    member = next(one for one in sample.members if one.ext == "npz")
    flip_bit(index.store, sample.shard, offset=member.offset + member.size // 2)
    return f"{index.store.uri}/{sample.shard}: {sample.key}.npz is damaged"


def test_damaged_copy_is_fetched_again_once(tmp_path: Path) -> None:
    index = write_source(f"memory://{uuid4().hex}", {SHAPE: CLIPS})
    store = counted(index)
    reader = open_reader(index, tmp_path)
    reader.read(0)
    sample = index.sample(2)
    (copy,) = (tmp_path / "cache").glob(f"*/{sample.shard}")
    flip_bit_in_place(copy, offset=sample.members[0].offset)
    _, arrays = reader.read(2)
    np.testing.assert_array_equal(arrays["frames"], frames_of(2, SHAPE))
    assert store.reads == {sample.shard: 2}


def test_copy_on_a_disk_that_fails_is_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = write_source(f"memory://{uuid4().hex}", {SHAPE: CLIPS})
    store = counted(index)
    reader = open_reader(index, tmp_path)
    reader.read(0)
    pread, broken = OpenFile.read, [True]

    def fails_once(file: OpenFile, size: int, *, offset: int) -> bytes:
        if broken:
            broken.clear()
            raise UnavailableError("Input/output error, given up")
        return pread(file, size, offset=offset)

    monkeypatch.setattr(OpenFile, "read", fails_once)
    _, arrays = reader.read(2)
    np.testing.assert_array_equal(arrays["frames"], frames_of(2, SHAPE))
    assert store.reads == {index.sample(2).shard: 2}


def test_damaged_object_is_fetched_twice_and_named(tmp_path: Path) -> None:
    index = write_source(f"memory://{uuid4().hex}", {SHAPE: CLIPS})
    damage(index, row=5)
    store = counted(index)
    reader = open_reader(index, tmp_path)
    shard = index.sample(5).shard
    for row in (5, 4):  # its neighbour is in the same shard
        with pytest.raises(UserError) as caught:
            reader.read(row)
        assert str(caught.value).startswith(f"{store.uri}/{shard} is damaged: xxh64=")
        assert "\n" not in str(caught.value)
    assert store.reads == {shard: 4}
    reader.read(0)


def test_damaged_object_without_a_shard_hash_is_found_by_its_member(tmp_path: Path) -> None:
    uri = f"memory://{uuid4().hex}"
    age_index(write_source(uri, {SHAPE: CLIPS}).store)
    index = Index.open(uri)
    where = damage(index, row=5)
    store = counted(index)
    reader = open_reader(index, tmp_path)
    with pytest.raises(UserError) as caught:
        reader.read(5)
    assert str(caught.value).startswith(where)
    assert "\n" not in str(caught.value)
    assert store.reads == {index.sample(5).shard: 2}
    reader.read(4)  # its neighbour in the shard is whole


def test_damaged_file_is_named(tmp_path: Path) -> None:
    index = write_source(str(tmp_path / "clips"), {SHAPE: CLIPS})
    where = damage(index, row=1)
    with pytest.raises(UserError) as caught:
        open_reader(index, tmp_path).read(1)
    assert str(caught.value).startswith(where)
    open_reader(index, tmp_path).read(0)


def test_shards_of_coming_rows_are_fetched_ahead(tmp_path: Path) -> None:
    index = write_source(f"memory://{uuid4().hex}", {SHAPE: CLIPS})
    store = index.store = Waiting(index.store, wanted=set(index.shards))
    reader = open_reader(index, tmp_path)
    reader.fetch_ahead([0, 5, 1])
    assert store.all_came.wait(60)
    for row in (0, 5):
        np.testing.assert_array_equal(reader.read(row)[1]["frames"], frames_of(row, SHAPE))
    assert store.reads == dict.fromkeys(index.shards, 1)


@pytest.mark.parametrize(
    ("budget_shards", "sources", "here", "wanted"),
    [
        (9, 1, [], [0, 1]),
        (9, 4, [], [0]),
        (2, 1, [], [0]),
        (0, 1, [], [0]),
        (2, 1, [0], [1]),  # two blocks, of which one is here
        (2, 2, [0], []),
        (1, 1, [0], []),  # it would push out the one that is read first
        (2, 1, [0, 1], []),
    ],
)
def test_fetching_ahead_leaves_half_of_the_budget(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    budget_shards: int,
    sources: int,
    here: list[int],
    wanted: list[int],
) -> None:
    asked: list[list[str]] = []
    monkeypatch.setattr(Fetcher, "want", lambda _, shards: asked.append(list(shards)))
    index = write_source(f"memory://{uuid4().hex}", {SHAPE: CLIPS})
    reader = Reader(
        index,
        cache_dir=str(tmp_path),
        cache_bytes=budget_shards * max(index.sizes.values()),
        memory_bytes=0,
        sources=sources,
    )
    for shard in here:
        reader.read(5 * shard)
    reader.fetch_ahead([0, 5, 1])
    assert asked == [[list(index.shards)[shard] for shard in wanted]]


class Waiting(CountingStore):
    """A store that says when it was asked for all of some shards."""

    def __init__(self, store: Store, *, wanted: set[str]) -> None:
        super().__init__(store)
        self._wanted = wanted
        self.all_came = threading.Event()

    def get(self, key: str) -> bytes:
        data = super().get(key)
        if self._wanted <= self.reads.keys():
            self.all_came.set()
        return data


def test_shortened_shard_is_named(tmp_path: Path) -> None:
    index = write_source(str(tmp_path / "clips"), {SHAPE: CLIPS})
    sample = index.sample(3)
    index.store.put(sample.shard, index.store.get(sample.shard)[: sample.members[0].offset + 10])
    with pytest.raises(UserError, match=r"shard-000000\.tar: clip-003\.npz is damaged"):
        open_reader(index, tmp_path).read(3)


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_shard_that_vanished_is_one_line(tmp_path: Path, place: str) -> None:
    uri = str(tmp_path / "clips") if place == "folder" else f"memory://{uuid4().hex}"
    index = write_source(uri, {SHAPE: CLIPS})
    index.store.delete("shard-000001.tar")
    with pytest.raises(NotFoundError, match=r"shard-000001\.tar: the shard is missing") as caught:
        open_reader(index, tmp_path).read(5)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


class Seen:
    """A view that counts what is decoded."""

    def __init__(self) -> None:
        self.clips = 0

    def __call__(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        self.clips += 1
        return dict(arrays)


def test_decoded_samples_are_kept_within_the_budget(tmp_path: Path) -> None:
    index = write_source(str(tmp_path / "clips"), {SHAPE: CLIPS})
    seen = Seen()
    reader = open_reader(index, tmp_path, memory_clips=2, view=seen)
    for row in (0, 1, 0, 1, 0):
        reader.read(row)
    assert seen.clips == 2
    reader.read(2)  # 1 was used longest ago
    reader.read(0)
    assert seen.clips == 3
    reader.read(1)
    assert seen.clips == 4


def test_without_memory_nothing_is_kept(tmp_path: Path) -> None:
    index = write_source(str(tmp_path / "clips"), {SHAPE: CLIPS})
    seen = Seen()
    reader = open_reader(index, tmp_path, view=seen)
    reader.read(0)
    reader.read(0)
    assert seen.clips == 2


def one_sample(folder: Path, *, data: bytes, bucket: Bucket = SHAPE) -> Index:
    store = open_store(str(folder / "clips"))
    sample = NewSample(
        key="clip-000",
        members={"npz": data},
        bucket=bucket,
        fps=8.0,
        source="noise",
        captions=("a clip",),
        labels={},
    )
    write_index(store, [write_shard(store, "shard-000000.tar", [sample])], origin={})
    assert store.exists(HEAD)
    return Index.open(store.uri)


def test_member_that_is_not_what_it_says_is_named(tmp_path: Path) -> None:
    index = one_sample(tmp_path, data=b"no archive at all")
    with pytest.raises(UserError, match=r"shard-000000\.tar: clip-000 cannot be decoded"):
        open_reader(index, tmp_path).read(0)


def test_frames_of_another_shape_than_the_index_says_are_named(tmp_path: Path) -> None:
    index = one_sample(tmp_path, data=npz_bytes(frames=frames_of(0, SHAPE)), bucket=(9, 8, 8))
    with pytest.raises(UserError, match=r"frames are \(3, 8, 8, 3\), wanted \(9, 8, 8, 3\)"):
        open_reader(index, tmp_path).read(0)

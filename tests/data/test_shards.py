"""Shards and their index: plain tars, the same bytes every time, errors that name."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import xxhash

from orchestrator.data.index import HEAD, TABLE, Bucket, Index, write_index
from orchestrator.data.shards import (
    is_written,
    read_written,
    shard_name,
    write_shard,
    write_shared_shard,
    written_among,
)
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.storage.store import Store, open_store
from tests.data.clips import PER_SHARD, flip_bit, new_clip, write_source
from tests.data.version_1 import age_index, age_rows
from tests.tiny import tiny_recipe

WIDE: Bucket = (3, 8, 12)
STILL: Bucket = (1, 8, 8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "clips"))


def test_stdlib_reads_a_shard_by_webdataset_names(store: Store) -> None:
    clips = [new_clip(number, WIDE) for number in range(3)]
    clips[1] = replace(clips[1], members={"latent.npy": b"abc", "text0.npy": b"", "json": b"{}"})
    write_shard(store, "a.tar", clips)
    with tarfile.open(fileobj=io.BytesIO(store.get("a.tar"))) as archive:
        found = [
            (member.name, file.read())
            for member in archive
            if (file := archive.extractfile(member)) is not None
        ]
    # As WebDataset groups them: a sample is a run of files that agree up to the first dot.
    assert found == [
        (f"{clip.key}.{ext}", data) for clip in clips for ext, data in clip.members.items()
    ]


def test_index_says_where_each_member_is(store: Store) -> None:
    clips = [new_clip(number, WIDE) for number in range(3)]
    write_index(store, [write_shard(store, "a.tar", clips)], origin={})
    index = Index.open(store.uri)
    for row, clip in enumerate(clips):
        sample = index.sample(row)
        assert (sample.key, sample.shard, sample.bucket) == (clip.key, "a.tar", WIDE)
        assert (sample.fps, sample.captions, sample.labels) == (
            clip.fps,
            clip.captions,
            clip.labels,
        )
        read = {
            one.ext: store.get_range("a.tar", start=one.offset, length=one.size)
            for one in sample.members
        }
        assert read == clip.members


def test_equal_clips_give_equal_bytes(tmp_path: Path) -> None:
    indexes = [write_source(str(tmp_path / name), {WIDE: 5, STILL: 2}) for name in ("a", "b")]
    contents = [{key: index.store.get(key) for key in index.store.list("")} for index in indexes]
    assert contents[0] == contents[1]
    assert indexes[0].digest == indexes[1].digest


def test_digest_tells_other_clips_apart(store: Store) -> None:
    def digest(clip_number: int, caption: str) -> str:
        clip = replace(new_clip(clip_number, WIDE), key="clip", captions=(caption,))
        return write_index(store, [write_shard(store, "a.tar", [clip])], origin={})

    assert digest(0, "one") == digest(0, "one")
    assert len({digest(0, "one"), digest(1, "one"), digest(0, "two")}) == 3


def test_rows_are_there_once_the_shard_is(store: Store) -> None:
    assert not is_written(store, "a.tar")
    written = write_shard(store, "a.tar", [new_clip(0, WIDE)])
    assert is_written(store, "a.tar")
    assert read_written(store, "a.tar") == written
    store.delete("a.tar")
    assert not is_written(store, "a.tar")


def test_writers_of_other_bytes_leave_each_others_tars_whole(store: Store, tmp_path: Path) -> None:
    ours, theirs = (
        write_shared_shard(store, "a.tar", [replace(new_clip(number, WIDE), key="clip")])
        for number in range(2)
    )
    assert ours.shard.name != theirs.shard.name
    assert is_written(store, "a.tar")
    assert read_written(store, "a.tar") == theirs
    for name, written in (("ours", ours), ("theirs", theirs)):
        beside = open_store(str(tmp_path / name))
        write_index(beside, [written], origin={}, base="../clips")
        index = Index.open(beside.uri)
        (sample,) = index.of_shard(written.shard.name)
        for member in sample.members:
            data = store.get_range(sample.shard, start=member.offset, length=member.size)
            assert xxhash.xxh64_hexdigest(data) == member.xxh64


def test_equal_bytes_are_one_shared_shard(store: Store) -> None:
    assert write_shared_shard(store, "a.tar", [new_clip(0, WIDE)]) == write_shared_shard(
        store, "a.tar", [new_clip(0, WIDE)]
    )
    assert len(store.list("a-")) == 1


def test_shards_are_known_once_rows_and_tar_are_there(store: Store) -> None:
    names = [shard_name(number) for number in range(4)]
    write_shard(store, names[0], [new_clip(0, WIDE)])
    gone = write_shared_shard(store, names[1], [new_clip(1, WIDE)])
    write_shared_shard(store, names[2], [new_clip(2, WIDE)])
    store.delete(gone.shard.name)
    assert written_among(store, names) == [names[0], names[2]]


def test_rows_written_before_shards_had_hashes_are_completed(store: Store) -> None:
    written = write_shard(store, "a.tar", [new_clip(0, WIDE), new_clip(1, STILL)])
    age_rows(store, "a.tar")
    again = read_written(store, "a.tar")
    assert again.shard == written.shard
    write_index(store, [written], origin={})
    whole = {key: store.get(key) for key in (HEAD, TABLE)}
    write_index(store, [again], origin={})
    assert {key: store.get(key) for key in (HEAD, TABLE)} == whole


def test_index_knows_shards_by_size_and_hash(store: Store) -> None:
    write_index(store, [write_shard(store, "a.tar", [new_clip(0, WIDE)])], origin={})
    data = store.get("a.tar")
    (shard,) = json.loads(store.get(HEAD))["shards"]
    assert shard == {"name": "a.tar", "bytes": len(data), "xxh64": xxhash.xxh64_hexdigest(data)}
    assert Index.open(store.uri).hashes == {"a.tar": shard["xxh64"]}


def test_index_of_version_1_opens_with_its_digest(tmp_path: Path) -> None:
    index = write_source(str(tmp_path), {WIDE: 5, STILL: 2})
    samples = [index.sample(row) for row in range(len(index))]
    digest = age_index(index.store)
    old = Index.open(str(tmp_path))
    assert digest == old.digest == index.digest
    assert old.hashes == {}
    assert old.shards == index.shards
    assert [old.sample(row) for row in range(len(old))] == samples
    assert samples[0].duration_s == WIDE[0] / 8.0


def test_cuts_are_kept_and_enter_the_digest(store: Store) -> None:
    def digest(**cut: Any) -> str:
        clip = replace(new_clip(0, WIDE), **cut)
        return write_index(store, [write_shard(store, "a.tar", [clip])], origin={})

    plain = digest()
    cut = {"original": "s3://films/a.mp4", "start_s": 1.5, "end_s": 1.875}
    assert len({plain, digest(**cut), digest(**{**cut, "start_s": 1.25})}) == 3
    digest(**cut)
    sample = Index.open(store.uri).sample(0)
    assert (sample.original, sample.start_s, sample.end_s) == tuple(cut.values())


def test_shards_may_lie_elsewhere_than_their_index(tmp_path: Path) -> None:
    shards, beside = (open_store(str(tmp_path / name)) for name in ("shards", "index"))
    write_index(
        beside, [write_shard(shards, "a.tar", [new_clip(0, WIDE)])], origin={}, base=shards.uri
    )
    index = Index.open(beside.uri)
    index.check_shards()
    assert index.store.uri == shards.uri
    assert beside.list("") == [HEAD, TABLE]


@pytest.mark.parametrize("key", ["clips/a", "./a", "v1.0/a", "w" * 300, "\u00e9" * 40])
def test_keys_of_webdataset_are_written_where_their_index_says(store: Store, key: str) -> None:
    clips = [new_clip(0, WIDE), replace(new_clip(1, WIDE), key=key), new_clip(2, WIDE)]
    write_index(store, [write_shard(store, "a.tar", clips)], origin={})
    with tarfile.open(fileobj=io.BytesIO(store.get("a.tar"))) as archive:
        there = [(one.name, one.offset_data, one.size) for one in archive]
    samples = Index.open(store.uri).of_shard("a.tar")
    assert there == [
        (f"{sample.key}.{member.ext}", member.offset, member.size)
        for sample in samples
        for member in sample.members
    ]


@pytest.mark.parametrize("key", ["", "a.b", "/a", "../a", "a/../b", "a/", "a\0", "clip-000"])
def test_key_that_a_tar_may_not_have_is_refused(store: Store, key: str) -> None:
    clips = [new_clip(0, WIDE), replace(new_clip(1, WIDE), key=key)]
    with pytest.raises(ValueError, match="wanted a new name without"):
        write_shard(store, "a.tar", clips)
    assert store.list("") == []


def test_index_knows_its_buckets_and_shards(tmp_path: Path) -> None:
    index = write_source(str(tmp_path), {WIDE: PER_SHARD + 1, STILL: 2})
    assert len(index) == PER_SHARD + 3
    assert index.buckets == {
        WIDE: list(range(PER_SHARD + 1)),
        STILL: [PER_SHARD + 1, PER_SHARD + 2],
    }
    assert index.shards == (shard_name(0), shard_name(1))
    assert index.origin == {"made": "by a test"}
    assert [one.key for one in index.of_shard(shard_name(1))] == [
        index.sample(row).key for row in range(PER_SHARD, PER_SHARD + 3)
    ]


def test_missing_shards_are_counted(tmp_path: Path) -> None:
    index = write_source(str(tmp_path), {WIDE: 6})
    index.check_shards()
    index.store.delete(shard_name(0))
    index.store.delete(shard_name(1))
    with pytest.raises(UserError, match=r"/shard-000000\.tar: the shard is missing.*\(2 missing\)"):
        index.check_shards()


def test_a_recipe_with_a_missing_shard_is_refused_before_it_starts(tmp_path: Path) -> None:
    recipe = tiny_recipe(str(tmp_path))
    indexes = ensure_sources(recipe, on_clips=lambda *_: None)
    indexes["eval"].store.delete(shard_name(0))
    with pytest.raises(UserError, match=r"eval/shard-000000\.tar: the shard is missing"):
        ensure_sources(recipe, on_clips=lambda *_: None)


def without_hashes(store: Store) -> None:
    head = json.loads(store.get(HEAD))
    names = [shard["name"] for shard in head["shards"]]
    store.put(HEAD, json.dumps({**head, "shards": names}).encode())


def of_version_99(store: Store) -> None:
    head = json.loads(store.get(HEAD))
    store.put(HEAD, json.dumps({**head, "version": 99}).encode())


def of_fewer_clips(store: Store) -> None:
    head = json.loads(store.get(HEAD))
    store.put(HEAD, json.dumps({**head, "samples": 3}).encode())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_hashes, r"/index\.json: .*damaged .*shard-000000\.tar without bytes and xxh64"),
        (lambda store: store.put(TABLE, b""), r"/index\.parquet: damaged"),
        (
            lambda store: store.delete(HEAD),
            r"/index\.json: not there, wanted a folder.*run: rushes data index /",
        ),
        (lambda store: store.put(HEAD, b"{"), r"/index\.json: .*damaged"),
        (lambda store: store.put(HEAD, b'{"version": 1}'), r"/index\.json: .* is damaged"),
        (of_version_99, r"/index\.json: version=99, wanted 1 to 3"),
        (of_fewer_clips, r"/index\.parquet: 6 samples, wanted 3"),
        (lambda store: flip_bit(store, TABLE, offset=60), r"/index\.parquet: damaged"),
        (lambda store: store.put(TABLE, b"PAR1"), r"/index\.parquet: damaged"),
        (lambda store: store.delete(TABLE), r"/index\.parquet: no such file"),
    ],
)
def test_broken_source_is_one_line(
    tmp_path: Path, spoil: Callable[[Store], None], told: str
) -> None:
    index = write_source(str(tmp_path), {WIDE: 6})
    spoil(index.store)
    with pytest.raises(UserError, match=told) as caught:
        Index.open(str(tmp_path))
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_table_in_many_pieces_is_the_same_index(tmp_path: Path) -> None:
    index = write_source(str(tmp_path), {(3, 8, 8): 7, (1, 8, 8): 4})
    pieces = io.BytesIO()
    pq.write_table(index.table, pieces, row_group_size=3)
    index.store.put(TABLE, pieces.getvalue())
    again = Index.open(index.store.uri)
    assert again.table["key"].num_chunks > 1
    rows = range(len(index))
    assert [again.sample(row) for row in rows] == [index.sample(row) for row in rows]
    assert [again.shard(row) for row in rows] == [index.sample(row).shard for row in rows]
    assert again.buckets == index.buckets == {(3, 8, 8): [*range(7)], (1, 8, 8): [*range(7, 11)]}
    assert [again.rows_of(shard) for shard in again.shards] == [
        index.rows_of(shard) for shard in index.shards
    ]
    assert again.wordings == index.wordings
    for row in (-1, len(again)):
        with pytest.raises(IndexError, match="wanted one of 11"):
            again.sample(row)

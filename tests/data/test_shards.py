"""Shards and their index: plain tars, the same bytes every time, errors that name."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.data.index import HEAD, TABLE, Bucket, Index, write_index
from orchestrator.data.shards import shard_name, write_shard, written_rows
from orchestrator.errors import UserError
from orchestrator.storage.store import Store, open_store
from tests.data.clips import PER_SHARD, flip_bit, new_clip, write_source

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
    write_index(store, write_shard(store, "a.tar", clips), origin={})
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
        return write_index(store, write_shard(store, "a.tar", [clip]), origin={})

    assert digest(0, "one") == digest(0, "one")
    assert len({digest(0, "one"), digest(1, "one"), digest(0, "two")}) == 3


def test_rows_are_there_once_the_shard_is(store: Store) -> None:
    assert written_rows(store, "a.tar") == []
    rows = write_shard(store, "a.tar", [new_clip(0, WIDE)])
    assert written_rows(store, "a.tar") == json.loads(json.dumps(rows))
    store.delete("a.tar")
    assert written_rows(store, "a.tar") == []


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "clip-000"])
def test_key_that_webdataset_would_split_is_refused(store: Store, key: str) -> None:
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


def lose_shards(store: Store) -> None:
    store.delete(shard_name(0))
    store.delete(shard_name(1))


def of_version_99(store: Store) -> None:
    head = json.loads(store.get(HEAD))
    store.put(HEAD, json.dumps({**head, "version": 99}).encode())


def of_fewer_clips(store: Store) -> None:
    head = json.loads(store.get(HEAD))
    store.put(HEAD, json.dumps({**head, "samples": 3}).encode())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lose_shards, r"/shard-000000\.tar: the shard is missing.*\(2 missing\)"),
        (lambda store: store.delete(HEAD), r"/index\.json: not there, wanted a folder"),
        (lambda store: store.put(HEAD, b"{"), r"/index\.json: .*damaged"),
        (lambda store: store.put(HEAD, b'{"version": 1}'), r"/index\.json: .* is damaged"),
        (of_version_99, r"/index\.json: version=99, wanted 1"),
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

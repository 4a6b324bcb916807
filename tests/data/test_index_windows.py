"""Buckets apart from what is stored: in the index, its digest and its version."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.data.buckets import RatedBucket, parse_bucket
from orchestrator.data.index import HEAD, TABLE, Bucket, Index, write_index
from orchestrator.data.shards import read_written, write_shard
from orchestrator.data.table import BUCKET, table_bytes
from orchestrator.errors import UserError
from orchestrator.storage.store import Store, open_store
from tests.data.clips import new_clip

STORED: Bucket = (5, 8, 12)
SMALL = parse_bucket("2x4x4@4")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "clips"))


def write(store: Store, *seen: RatedBucket | None) -> str:
    clips = [replace(new_clip(number, STORED), seen_as=one) for number, one in enumerate(seen)]
    return write_index(store, [write_shard(store, "a.tar", clips)], origin={})


def version(store: Store) -> int:
    return json.loads(store.get(HEAD))["version"]


def test_sample_knows_what_is_stored_and_what_is_seen(store: Store) -> None:
    write(store, SMALL, None)
    index = Index.open(store.uri)
    seen, whole = index.of_shard("a.tar")
    assert (seen.bucket, seen.fps, seen.is_windowed) == ((2, 4, 4), 4.0, True)
    assert (whole.bucket, whole.fps, whole.is_windowed) == (STORED, 8.0, False)
    for sample in (seen, whole):
        assert (sample.stored, sample.stored_fps) == (STORED, 8.0)
        assert sample.duration_s == 5 / 8
    assert index.buckets == {(2, 4, 4): [0], STORED: [1]}
    assert index.durations_s.tolist() == [5 / 8, 5 / 8]
    assert index.windowed == 1


def test_bucket_of_all_that_is_stored_is_no_window(store: Store) -> None:
    write(store, RatedBucket(STORED, 8.0))
    assert not Index.open(store.uri).sample(0).is_windowed
    assert Index.open(store.uri).windowed == 0


def test_buckets_enter_the_digest_where_there_are_any(store: Store) -> None:
    def digest(*names: str) -> str:
        return write(store, *(parse_bucket(name) if name else None for name in names))

    seen = [("", ""), ("2x4x4@4", ""), ("", "2x4x4@4"), ("2x4x4@8", ""), ("2x4x6@4", "")]
    assert len({digest(*names) for names in seen}) == len(seen)
    assert digest("2x4x4@4", "") == digest("2x4x4@4", "")


def test_clips_that_are_read_whole_stay_as_older_readers_know_them(store: Store) -> None:
    digest = write(store, None, None)
    assert version(store) == 2
    assert Index.open(store.uri).windowed == 0
    table = pq.read_table(io.BytesIO(store.get(TABLE)))
    older = table.drop_columns(list(BUCKET))
    store.put(TABLE, table_bytes(older))
    index = Index.open(store.uri)
    assert (index.digest, index.sample(0).bucket) == (digest, STORED)
    assert write_index(store, [read_written(store, "a.tar")], origin={}) == digest


def test_windows_are_kept_from_readers_that_would_read_clips_whole(store: Store) -> None:
    write(store, None, SMALL)
    assert version(store) == 3


def test_bucket_that_is_not_all_there_is_one_line(store: Store) -> None:
    write(store, SMALL, SMALL)
    table = pq.read_table(io.BytesIO(store.get(TABLE)))
    place = table.column_names.index("bucket_fps")
    column = table.column("bucket_fps").to_pylist()
    spoilt = table.set_column(place, "bucket_fps", [[column[0], None]])
    store.put(TABLE, table_bytes(spoilt))
    with pytest.raises(
        UserError, match=r"index\.parquet: damaged \(not all of bucket_frames, .*\)$"
    ):
        Index.open(store.uri)


def test_clip_too_small_for_its_bucket_is_not_written(store: Store) -> None:
    with pytest.raises(ValueError, match=r"clip-000: 8x12 pixels, wanted at least 9x9"):
        write(store, parse_bucket("2x9x9@4"))
    assert store.list("") == []

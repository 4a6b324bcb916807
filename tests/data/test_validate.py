"""Everything that is wrong with a source is found and told, and nothing else."""

import io
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import pytest

from orchestrator.data.buckets import parse_bucket
from orchestrator.data.decode import npz_bytes
from orchestrator.data.index import Bucket, Index, write_index
from orchestrator.data.shards import NewSample, shard_name, write_shard
from orchestrator.data.validate import Report, validate_clips, validate_hashes
from orchestrator.storage.store import Store, open_store
from tests.data.clips import flip_bit, frames_of, write_source
from tests.data.films import film_of, numbered
from tests.data.version_1 import age_index

SHAPE: Bucket = (3, 8, 8)
TRIALS = 200


def validated(uri: Path | str) -> Report:
    return validate_clips(Index.open(str(uri)), on_clips=lambda *_: None)


def test_a_whole_source_has_no_faults(tmp_path: Path) -> None:
    index = write_source(str(tmp_path), {SHAPE: 6})
    told: list[tuple[int, int]] = []
    report = validate_clips(index, on_clips=lambda *clips: told.append(clips))
    assert report.faults == ()
    assert report.shards_bytes == sum(len(index.store.get(name)) for name in index.shards)
    assert told == [(done, 6) for done in range(7)]


def test_version_1_has_no_faults(tmp_path: Path) -> None:
    age_index(write_source(str(tmp_path), {SHAPE: 6}).store)
    assert validated(tmp_path).faults == ()


def test_every_flipped_bit_of_a_shard_is_found(tmp_path: Path) -> None:
    index = write_source(str(tmp_path), {SHAPE: 4})
    (shard,) = index.shards
    path = tmp_path / shard
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(TRIALS):
        bit = draw.randrange(8 * len(whole))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        faults = validate_hashes(index, on_clips=lambda *_: None).faults
        assert faults[0].startswith(f"{shard}: the shard is damaged: xxh64="), f"bit {bit}"
    path.write_bytes(whole)
    assert validated(tmp_path).faults == ()


def test_faults_of_all_shards_are_told(tmp_path: Path) -> None:
    index = write_source(str(tmp_path), {SHAPE: 12})
    first, second, third = index.shards
    member = index.of_shard(first)[1].members[0]
    flip_bit(index.store, first, offset=member.offset)
    index.store.delete(second)
    index.store.put(third, index.store.get(third)[:-512])
    faults = validated(tmp_path).faults
    assert [line.split(": xxh64")[0] for line in faults] == [
        f"{first}: the shard is damaged",
        f"{first}: clip-001.npz is damaged",
        f"{second}: the shard is missing",
        f"{third}: the shard has {len(index.store.get(third))} bytes, wanted "
        f"{len(index.store.get(third)) + 512}",
    ]


def another_caption(store: Store) -> None:
    head = store.get("index.json")
    write_source(store.uri, {SHAPE: 2}, captions=False)
    store.put("index.json", head)


def another_place(store: Store) -> None:
    written = write_shard(store, shard_name(0), [one_clip("clip-000"), one_clip("clip-001")])
    written.rows[0]["members"][0]["offset"] += 512
    write_index(store, [written], origin={})


def one_row_less(store: Store) -> None:
    written = write_shard(store, shard_name(0), [one_clip("clip-000"), one_clip("clip-001")])
    del written.rows[1]
    write_index(store, [written], origin={})


def no_archive(store: Store) -> None:
    write_index(store, [write_shard(store, shard_name(0), [one_clip("clip-000", b"?")])], origin={})


def one_clip(key: str, data: bytes | None = None) -> NewSample:
    return NewSample(
        key=key,
        members={"npz": data or npz_bytes(frames=frames_of(0, SHAPE))},
        bucket=SHAPE,
        fps=8.0,
        source="noise",
        captions=(),
        labels={},
    )


def test_clips_are_decoded_beyond_their_windows(tmp_path: Path) -> None:
    film = film_of(numbered(20), options={"g": "5", "bf": "0", "sc_threshold": "0"})
    with av.open(io.BytesIO(film)) as container:
        packets = [one for one in container.demux(video=0) if one.size]
    spoilt = bytearray(film)
    middle = packets[12]
    assert middle.pos is not None
    spoilt[middle.pos : middle.pos + middle.size] = bytes(middle.size)
    clips = [
        replace(
            one_clip(key),
            members={"mp4": data},
            bucket=(frames, 48, 128),
            fps=24.0,
            seen_as=parse_bucket("4x24x64@24"),
        )
        for key, data, frames in (
            ("whole", film, 20),
            ("spoilt", bytes(spoilt), 20),
            ("longer", film, 30),
        )
    ]
    store = open_store(str(tmp_path))
    write_index(store, [write_shard(store, shard_name(0), clips)], origin={})
    spoilt_told, longer_told = validated(tmp_path).faults
    assert spoilt_told.startswith("shard-000000.tar: spoilt cannot be decoded: ")
    assert longer_told == (
        "shard-000000.tar: longer cannot be decoded: frames are (20, 48, 128), wanted (30, 48, 128)"
    )


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (another_caption, "index.parquet: digest="),
        (another_place, "shard-000000.tar: clip-000.npz is not in the tar at byte 1024"),
        (one_row_less, "shard-000000.tar: clip-001.npz is not in the index"),
        (no_archive, "shard-000000.tar: clip-000 cannot be decoded: not an npz"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_told(
    tmp_path: Path, spoil: Callable[[Store], None], told: str
) -> None:
    write_source(str(tmp_path), {SHAPE: 2})
    spoil(open_store(str(tmp_path)))
    faults = validated(tmp_path).faults
    assert faults[0].startswith(told)
    assert not any("\n" in line for line in faults)

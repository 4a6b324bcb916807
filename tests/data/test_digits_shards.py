"""Digits are written once, go on after a stop, and never mix with other clips."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.data.digits.source import digit_clip
from orchestrator.data.digits_shards import CLIPS_PER_SHARD, ensure_digits
from orchestrator.data.index import HEAD, TABLE, Index
from orchestrator.data.reader import Reader
from orchestrator.data.shards import shard_name
from orchestrator.data.sources import ensure_sources
from orchestrator.errors import UserError
from orchestrator.recipe.data import ClipShape, Digits
from orchestrator.storage.store import open_store
from tests.data.clips import write_source
from tests.data.version_1 import age_rows
from tests.tiny import tiny_recipe

CLIPS = 2 * CLIPS_PER_SHARD + 10
SPEC = Digits(clips=CLIPS, shapes=(ClipShape(frames=1, size=(20, 20)),))


def ensure(uri: Path | str, spec: Digits = SPEC) -> tuple[Index, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    index = ensure_digits(
        spec, split="train", uri=str(uri), on_clips=lambda *clips: told.append(clips)
    )
    return index, told


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def ages(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards, written once by worker processes; tests work on copies."""
    folder = tmp_path_factory.mktemp("digits")
    _, told = ensure(folder)
    assert told[0] == (0, CLIPS)
    assert told[-1] == (CLIPS, CLIPS)
    assert [clips for clips, _ in told] == sorted(clips for clips, _ in told)
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "digits"
    copy.mkdir()
    for name, data in contents(written).items():
        (copy / name).write_bytes(data)
    return copy


def test_second_call_writes_nothing(folder: Path) -> None:
    before = ages(folder)
    index, told = ensure(folder)
    assert len(index) == CLIPS
    assert told == []
    assert ages(folder) == before


def test_stopped_writer_goes_on_with_the_missing_shard(folder: Path) -> None:
    whole = contents(folder)
    for name in (HEAD, TABLE, "shard-000001.tar.rows.json"):
        (folder / name).unlink()  # stopped between a shard and its rows
    before = ages(folder)
    _, told = ensure(folder)
    assert told == [(CLIPS - CLIPS_PER_SHARD, CLIPS), (CLIPS, CLIPS)]
    assert contents(folder) == whole
    after = ages(folder)
    kept = ("origin.json", "shard-000000.tar", "shard-000002.tar", "shard-000002.tar.rows.json")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_writer_that_was_stopped_before_shards_had_hashes_goes_on(folder: Path) -> None:
    whole = contents(folder)
    for name in (HEAD, TABLE, "shard-000001.tar.rows.json"):
        (folder / name).unlink()
    for number in (0, 2):
        age_rows(open_store(str(folder)), shard_name(number))
    index, _ = ensure(folder)
    assert len(index) == CLIPS
    after = contents(folder)
    assert {name: after[name] for name in (HEAD, TABLE)} == {
        name: whole[name] for name in (HEAD, TABLE)
    }


@pytest.mark.parametrize("change", [{"seed": 1}, {"clips": CLIPS - 1}, {"fps": 9.0}])
@pytest.mark.parametrize("gone", [(), (HEAD, TABLE)], ids=["finished", "stopped"])
def test_other_clips_are_refused(
    folder: Path, change: dict[str, Any], gone: tuple[str, ...]
) -> None:
    for name in gone:
        (folder / name).unlink()
    before = contents(folder)
    with pytest.raises(UserError, match="choose another data uri or delete the folder") as caught:
        ensure(folder, SPEC.model_copy(update=change))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert contents(folder) == before


def test_clips_of_another_origin_are_refused(tmp_path: Path) -> None:
    write_source(str(tmp_path), {(1, 20, 20): 3})
    with pytest.raises(UserError, match=r"holds clips made from .*by a test"):
        ensure(tmp_path)


def test_shapes_come_as_often_as_their_share(tmp_path: Path) -> None:
    shapes = (
        ClipShape(frames=1, size=(20, 20), share=1.0),
        ClipShape(frames=3, size=(24, 20 + 8), share=3.0),
    )
    index, _ = ensure(tmp_path, Digits(clips=100, shapes=shapes))
    counts = {bucket: len(rows) for bucket, rows in index.buckets.items()}
    assert set(counts) == {(1, 20, 20), (3, 24, 28)}
    assert counts[1, 20, 20] == pytest.approx(25, abs=2)
    first = [index.sample(row).bucket for row in range(20)]
    assert first.count((1, 20, 20)) == pytest.approx(5, abs=1)  # evenly spread


def test_shape_without_room_for_a_digit_is_the_users_error(tmp_path: Path) -> None:
    small = Digits(clips=4, shapes=(ClipShape(), ClipShape(frames=9, size=(8, 8))))
    with pytest.raises(UserError, match=r"^digits\.shapes: size=\[8, 8\], wanted"):
        ensure(tmp_path, small)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.s3
def test_recipe_with_clips_in_a_bucket_reads_them(bucket: str, tmp_path: Path) -> None:
    recipe = tiny_recipe(bucket)
    told: list[tuple[str, int, int]] = []
    indexes = ensure_sources(recipe, on_clips=lambda *clips: told.append(clips))
    assert told == [("train", 0, 24), ("train", 24, 24), ("eval", 0, 8), ("eval", 8, 8)]
    for split, clips in (("train", 24), ("eval", 8)):
        index = indexes[split]
        assert index.store.uri == f"{bucket}/clips/{split}"
        assert len(index) == clips
        reader = Reader(index, cache_dir=str(tmp_path), cache_bytes=10**9, memory_bytes=0)
        for row in range(clips):
            sample, arrays = reader.read(row)
            assert split in ("train", "eval")
            made = digit_clip(seed=0, split=split, index=row, frames=9, height=32, width=32)
            np.testing.assert_array_equal(arrays["frames"], made.frames)
            assert sample.captions == made.captions
            assert sample.labels["digit"] == made.labels.digit
    again: list[object] = []
    ensure_sources(recipe, on_clips=lambda *clips: again.append(clips))
    assert again == []

"""Clips that are stored longer than their bucket give training another part at each reading."""

from pathlib import Path

import pytest

from orchestrator.data.index import Index
from orchestrator.data.prepare.executors import Here
from orchestrator.data.prepare.listing import list_source
from orchestrator.data.prepare.prepare import prepare
from orchestrator.data.reader import Reader
from orchestrator.data.validate import validate_clips
from orchestrator.recipe.prepare import load_prepare
from orchestrator.storage.store import open_store
from tests.data.prepare.test_transcode import counting_film, numbers_in

SEEN = (8, 32, 32)
FILM_FPS, FPS = 24, 8


def prepared(folder: Path, *, store: str) -> Index:
    """Four seconds of a film, in clips of three seconds and of the one that is left."""
    counting_film(folder / "raw" / "a.mp4", frames=4 * FILM_FPS, fps=FILM_FPS)
    raw, out = str(folder / "raw"), str(folder / store)
    small = f"buckets=[{{frames: {SEEN[0]}, size: [32, 32], fps: {FPS}}}]"
    cut = ("scenes=null", "dedup=null", "clips.max_s=3", "encoding.crf=4")
    prepare(
        open_store(out),
        list_source(raw, target=out),
        source=raw,
        config=load_prepare(None, overrides=(small, *cut, f"store={store}")),
        executor=Here(),
        on_progress=lambda *_: None,
    )
    index = Index.open(out)
    assert index.buckets == {SEEN: [0, 1]}
    assert len(index.shards) == 1  # one for a bucket, however long its clips are
    assert validate_clips(index, on_clips=lambda *_: None).faults == ()
    return index


def seen(index: Index, row: int, *, draw: float) -> list[int]:
    """Numbers of the film's frames that training sees."""
    reader = Reader(index, cache_dir=None, cache_bytes=0, memory_bytes=0)
    return numbers_in(reader.read(row, draw=draw)[1]["frames"])


@pytest.mark.parametrize(("draw", "first"), [(0.0, 0), (0.5, 8), (0.999, 16)])
def test_a_window_may_begin_anywhere_in_the_clip(tmp_path: Path, draw: float, first: int) -> None:
    index = prepared(tmp_path, store="clip")
    clip = index.sample(0)
    assert (clip.start_s, clip.end_s, index.windowed) == (0.0, 3.0, 1)
    assert seen(index, 0, draw=draw) == [3 * (first + frame) for frame in range(SEEN[0])]
    assert seen(index, 1, draw=draw) == [72 + 3 * frame for frame in range(SEEN[0])]


def test_no_more_is_stored_than_is_seen_at_a_time_where_that_is_wanted(tmp_path: Path) -> None:
    index = prepared(tmp_path, store="bucket")
    clip = index.sample(0)
    assert (clip.start_s, clip.end_s, index.windowed) == (0.0, 1.0, 0)
    assert seen(index, 0, draw=0.999) == [3 * frame for frame in range(SEEN[0])]

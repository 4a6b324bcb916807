"""The digits source, written once as indexed shards."""

import json
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing, contextmanager
from dataclasses import asdict
from itertools import accumulate
from multiprocessing import get_context, parent_process
from typing import Any

from orchestrator.data.decode import npz_bytes
from orchestrator.data.digits.source import DigitClip, Split, digit_clip
from orchestrator.data.index import HEAD, Index, WrittenShard, write_index
from orchestrator.data.shards import (
    NewSample,
    is_written,
    read_written,
    shard_name,
    write_shard,
)
from orchestrator.errors import UserError
from orchestrator.recipe.data import ClipShape, Digits
from orchestrator.storage.store import open_store

VERSION = 2  # of the rendering: another one gives other clips
CLIPS_PER_SHARD = 512
ORIGIN = "origin.json"  # written first: what the shards of a stopped writer were made from
_WORKERS = 2


def ensure_digits(
    spec: Digits,
    *,
    split: Split,
    uri: str,
    on_clips: Callable[[int, int], None],
    field: str = "digits",
) -> Index:
    """Writes the clips unless they are there; a writer that was stopped goes on.

    Args:
        spec: how many clips, of which shapes.
        split: which handwritten digits to draw from.
        uri: the source's folder.
        on_clips: told (written, all) clips.
        field: where the recipe has ``spec``, for errors.

    Raises:
        UserError: if other clips are there, a shape is too small for a digit, or the folder
            cannot be written.
    """
    _check_shapes(spec, split=split, field=field)
    store = open_store(uri)
    origin = {"digits": spec.model_dump(mode="json"), "split": split, "version": VERSION}
    if store.exists(HEAD):
        index = Index.open(uri)
        _check_origin(uri, seen=index.origin, wanted=origin)
        return index
    if not store.put_new(ORIGIN, json.dumps(origin).encode()):
        _check_origin(uri, seen=json.loads(store.get(ORIGIN)), wanted=origin)
    numbers = range(-(-spec.clips // CLIPS_PER_SHARD))
    written = {
        number: read_written(store, shard_name(number))
        for number in numbers
        if is_written(store, shard_name(number))
    }
    clips = sum(len(one.rows) for one in written.values())
    on_clips(clips, spec.clips)
    missing = [number for number in numbers if number not in written]
    with closing(_made(spec, split=split, uri=uri, numbers=missing)) as shards:
        for number, made in shards:
            written[number] = made
            clips += len(made.rows)
            on_clips(clips, spec.clips)
    write_index(store, [written[number] for number in numbers], origin=origin)
    return Index.open(uri)


def _check_shapes(spec: Digits, *, split: Split, field: str) -> None:
    for shape in spec.shapes:
        try:
            _clip(spec, shape, split=split, index=0)
        except ValueError as error:
            raise UserError(f"{field}.shapes: {error}") from None


def _check_origin(uri: str, *, seen: dict[str, Any], wanted: dict[str, Any]) -> None:
    if seen != wanted:
        raise UserError(
            f"{uri}: holds clips made from {json.dumps(seen)}, wanted {json.dumps(wanted)}; "
            "choose another data uri or delete the folder"
        )


def _made(
    spec: Digits, *, split: Split, uri: str, numbers: list[int]
) -> Generator[tuple[int, WrittenShard], None, None]:
    """Writes shards and yields each one as it is done."""
    if len(numbers) < 2:
        for number in numbers:
            yield number, _write(spec, split, uri, number)
        return
    with _pool() as pool:
        jobs = {pool.submit(_write, spec, split, uri, number): number for number in numbers}
        for job in as_completed(jobs):
            yield jobs[job], job.result()


@contextmanager
def _pool() -> Iterator[ProcessPoolExecutor]:
    """Processes that leave signals to their parent, and end with it."""
    # Spawned, not forked: this process may hold threads and connections.
    pool = ProcessPoolExecutor(
        _WORKERS, mp_context=get_context("spawn"), initializer=_follow_parent
    )
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)  # killed: nobody is left to take our result

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _write(spec: Digits, split: Split, uri: str, number: int) -> WrittenShard:
    first = number * CLIPS_PER_SHARD
    samples = [
        _sample(spec, split=split, index=index)
        for index in range(first, min(first + CLIPS_PER_SHARD, spec.clips))
    ]
    return write_shard(open_store(uri), shard_name(number), samples)


def _sample(spec: Digits, *, split: Split, index: int) -> NewSample:
    shape = _shape(spec, index)
    clip = _clip(spec, shape, split=split, index=index)
    labels = asdict(clip.labels)
    described = {"captions": clip.captions, "labels": labels, "fps": spec.fps}
    return NewSample(
        key=f"digit-{index:07d}",
        members={"npz": npz_bytes(frames=clip.frames), "json": json.dumps(described).encode()},
        bucket=(shape.frames, *shape.size),
        fps=spec.fps,
        source=f"digits-{split}",
        captions=clip.captions,
        labels=labels,
    )


def _clip(spec: Digits, shape: ClipShape, *, split: Split, index: int) -> DigitClip:
    height, width = shape.size
    return digit_clip(
        seed=spec.seed, split=split, index=index, frames=shape.frames, height=height, width=width
    )


def _shape(spec: Digits, index: int) -> ClipShape:
    """The shape of a clip: every shape as often as its share says, evenly spread."""
    bounds = list(accumulate(shape.share for shape in spec.shapes))
    # The golden ratio's multiples spread any number of clips evenly over [0, 1).
    position = (index * 0.6180339887498949) % 1.0 * bounds[-1]
    return next(shape for shape, bound in zip(spec.shapes, bounds, strict=True) if position < bound)

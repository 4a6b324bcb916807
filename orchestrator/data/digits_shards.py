"""The digits source, written once as indexed shards."""

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import accumulate
from multiprocessing import get_context
from typing import Any

from orchestrator.data.decode import npz_bytes
from orchestrator.data.digits.source import Split, digit_clip
from orchestrator.data.index import HEAD, Index, write_index
from orchestrator.data.shards import NewSample, shard_name, write_shard, written_rows
from orchestrator.errors import UserError
from orchestrator.recipe.data import ClipShape, Digits
from orchestrator.storage.store import open_store

VERSION = 1  # of the rendering: another one gives other clips
CLIPS_PER_SHARD = 512


def ensure_digits(
    spec: Digits, *, split: Split, uri: str, on_clips: Callable[[int, int], None]
) -> Index:
    """Writes the clips unless they are there; a writer that was stopped goes on.

    Args:
        spec: how many clips, of which shapes.
        split: which handwritten digits to draw from.
        uri: the source's folder.
        on_clips: told (written, all) clips.

    Raises:
        UserError: if other clips are there, or the folder cannot be written.
    """
    store = open_store(uri)
    origin = {"digits": spec.model_dump(mode="json"), "split": split, "version": VERSION}
    if store.exists(HEAD):
        index = Index.open(uri)
        if index.origin != origin:
            raise UserError(
                f"{uri}: holds clips made from {json.dumps(index.origin)}, "
                f"wanted {json.dumps(origin)}; choose another data uri or delete the folder"
            )
        return index
    numbers = range(-(-spec.clips // CLIPS_PER_SHARD))
    rows: list[list[dict[str, Any]]] = [written_rows(store, shard_name(one)) for one in numbers]
    missing = [number for number in numbers if not rows[number]]
    written = sum(len(one) for one in rows)
    on_clips(written, spec.clips)
    workers = min(2, len(missing))
    if workers > 1:
        # Spawned, not forked: this process may hold threads and connections.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            jobs = [pool.submit(_write, spec, split, uri, number) for number in missing]
            for number, job in zip(missing, jobs, strict=True):
                rows[number] = job.result()
                written += len(rows[number])
                on_clips(written, spec.clips)
    else:
        for number in missing:
            rows[number] = _write(spec, split, uri, number)
            on_clips(spec.clips, spec.clips)
    write_index(store, [row for shard in rows for row in shard], origin=origin)
    return Index.open(uri)


def _write(spec: Digits, split: Split, uri: str, number: int) -> list[dict[str, Any]]:
    first = number * CLIPS_PER_SHARD
    samples = [
        _sample(spec, split=split, index=index)
        for index in range(first, min(first + CLIPS_PER_SHARD, spec.clips))
    ]
    return write_shard(open_store(uri), shard_name(number), samples)


def _sample(spec: Digits, *, split: Split, index: int) -> NewSample:
    shape = _shape(spec, index)
    height, width = shape.size
    clip = digit_clip(
        seed=spec.seed, split=split, index=index, frames=shape.frames, height=height, width=width
    )
    labels = asdict(clip.labels)
    described = {"captions": clip.captions, "labels": labels, "fps": spec.fps}
    return NewSample(
        key=f"digit-{index:07d}",
        members={"npz": npz_bytes(frames=clip.frames), "json": json.dumps(described).encode()},
        bucket=(shape.frames, height, width),
        fps=spec.fps,
        source=f"digits-{split}",
        captions=clip.captions,
        labels=labels,
    )


def _shape(spec: Digits, index: int) -> ClipShape:
    """The shape of a clip: every shape as often as its share says, evenly spread."""
    bounds = list(accumulate(shape.share for shape in spec.shapes))
    # The golden ratio's multiples spread any number of clips evenly over [0, 1).
    position = (index * 0.6180339887498949) % 1.0 * bounds[-1]
    return next(shape for shape, bound in zip(spec.shapes, bounds, strict=True) if position < bound)

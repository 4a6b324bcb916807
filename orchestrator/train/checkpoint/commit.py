"""What makes a checkpoint exist once all its data files are there."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import UnavailableError
from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.format import (
    COMMIT,
    INDEX,
    VERSION,
    Commit,
    Index,
    Parameter,
    Range,
    describe,
)


def put_parameters_together(slices: Sequence[dict[str, Any]]) -> dict[str, Parameter]:
    """Whole parameters by NETWORK/NAME, of all ranks' slices as JSON, each element once."""
    ranges: dict[str, list[Range]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for one in slices:
        place = Range(**one["range"])
        ranges.setdefault(place.key, []).append(place)
        shapes[place.key] = tuple(one["shape"])
    parameters: dict[str, Parameter] = {}
    for key, parts in ranges.items():
        parts.sort(key=lambda part: part.start)
        end = 0
        for part in parts:
            assert part.start == end, f"{key}: slice at {part.start}, wanted {end}"
            end += part.numel
        assert end == math.prod(shapes[key]), f"{key}: slices end at {end} of {shapes[key]}"
        parameters[key] = Parameter(shape=shapes[key], ranges=tuple(parts))
    return parameters


def refuse_committed(store: Store, target: str) -> None:
    """Raises UnavailableError if a step is committed: nothing of it is to be written over."""
    if store.exists(f"{target}/{COMMIT}"):
        raise UnavailableError("another attempt has committed this step")


def write(store: Store, target: str, *, index: Index, metrics: Mapping[str, float]) -> None:
    """Writes ``index.json``, then ``COMMIT``, neither over what is there.

    An ``index.json`` without a ``COMMIT`` is of a writer that was lost, and goes first. That writer
    may still be on its way with it: then it does not find the place free.

    Raises:
        UnavailableError: if another attempt has committed the step, or writes it.
    """
    raw_index = index.model_dump_json().encode()
    if not store.put_new(f"{target}/{INDEX}", raw_index):
        store.delete(f"{target}/{INDEX}")
        if not store.put_new(f"{target}/{INDEX}", raw_index):
            raise UnavailableError("another attempt writes this step")
    files = {**index.files, INDEX: describe(raw_index)}
    commit = Commit(version=VERSION, step=index.step, files=files, metrics=dict(metrics))
    raw_commit = commit.to_bytes()
    is_new = store.put_new(f"{target}/{COMMIT}", raw_commit)
    # One that is there already is ours if an earlier try was answered too late.
    if not is_new and store.get(f"{target}/{COMMIT}") != raw_commit:
        raise UnavailableError("another attempt has committed this step")

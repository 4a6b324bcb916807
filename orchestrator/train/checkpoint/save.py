"""Writing a checkpoint."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor

from orchestrator.errors import RushesError, UnavailableError, UserError
from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.format import (
    COMMIT,
    INDEX,
    VERSION,
    Commit,
    File,
    Index,
    Network,
    Parameter,
    Range,
    data_file,
    describe,
    folder,
)
from orchestrator.train.checkpoint.steps import prune
from orchestrator.train.engine.base import STATE_KEYS, Engine, Fragment
from orchestrator.train.exchange import gather_json
from orchestrator.train.ranks import Ranks

PART_BYTES = 512 * 2**20  # a rank's state is written in files of about this size


def save(
    store: Store,
    prefix: str,
    *,
    step: int,
    engines: Mapping[str, Engine],
    extra: dict[str, Any],
    ranks: Ranks,
    keep: int,
) -> None:
    """Writes every rank's slices, then ``index.json``, then ``COMMIT``; collective.

    After the commit older checkpoints are deleted, all but the newest ``keep``.

    Args:
        store: where the run is.
        prefix: key of the folder of checkpoints.
        step: optimizer steps done.
        engines: networks by name.
        extra: JSON that ``load_latest`` gives back.
        ranks: this process and its peers.
        keep: committed checkpoints to keep, at least 1.

    Raises:
        UnavailableError: on every rank, if any rank could not write; earlier checkpoints stay.
        UserError: the same, if what stands in the way is the user's (no space, no permission).
    """
    target = folder(prefix, step=step)
    written: dict[str, Any] = {"error": None, "files": {}, "slices": []}
    try:
        for name, raw, slices in _files(engines, ranks=ranks):
            store.put(f"{target}/{name}", raw)
            written["files"][name] = describe(raw).model_dump()
            written["slices"] += slices
    except RushesError as error:
        written["error"] = _told(error)
    everything = gather_json(written, device=ranks.device)
    error = next((one["error"] for one in everything if one["error"]), None)
    networks = {name: Network(applied_steps=one.applied_steps) for name, one in engines.items()}
    if error is None and ranks.rank == 0:
        index = Index(
            version=VERSION,
            step=step,
            world_size=ranks.world_size,
            networks=networks,
            parameters=_parameters([one for rank in everything for one in rank["slices"]]),
            files={
                name: File(**file) for rank in everything for name, file in rank["files"].items()
            },
            extra=extra,
        )
        try:
            _commit(store, target, index=index)
            prune(store, prefix, keep=keep)
        except RushesError as failure:
            error = _told(failure)
    error = gather_json(error, device=ranks.device)[0]
    if error is not None:
        kind = UserError if error["exit_code"] == UserError.exit_code else UnavailableError
        raise kind(f"checkpoint {store.uri}/{target} was not written: {error['text']}")


def _told(error: RushesError) -> dict[str, Any]:
    return {"text": str(error), "exit_code": error.exit_code}


def _files(
    engines: Mapping[str, Engine], *, ranks: Ranks
) -> Iterator[tuple[str, bytes, list[dict[str, Any]]]]:
    for part, fragments in enumerate(_parts(engines)):
        name = data_file(rank=ranks.rank, world_size=ranks.world_size, part=part)
        tensors: dict[str, Tensor] = {}
        slices: list[dict[str, Any]] = []
        for key, fragment in fragments:
            for state in STATE_KEYS:
                tensors[f"{key}/{state}"] = fragment.tensors[state].detach().to("cpu", copy=True)
            place = {"file": name, "key": key, "start": fragment.start, "numel": fragment.numel}
            slices.append({"shape": list(fragment.shape), "range": place})
        yield name, to_safetensors(tensors), slices


def _parts(engines: Mapping[str, Engine]) -> Iterator[list[tuple[str, Fragment]]]:
    part: list[tuple[str, Fragment]] = []
    size = 0
    for network, engine in engines.items():
        for fragment in engine.fragments():
            part.append((f"{network}/{fragment.name}", fragment))
            size += fragment.numel * len(STATE_KEYS) * torch.float32.itemsize
            if size >= PART_BYTES:
                yield part
                part, size = [], 0
    if part:
        yield part


def _parameters(slices: list[dict[str, Any]]) -> dict[str, Parameter]:
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


def _commit(store: Store, target: str, *, index: Index) -> None:
    raw_index = index.model_dump_json().encode()
    store.put(f"{target}/{INDEX}", raw_index)
    files = {**index.files, INDEX: describe(raw_index)}
    raw_commit = Commit(version=VERSION, step=index.step, files=files).model_dump_json().encode()
    is_new = store.put_new(f"{target}/{COMMIT}", raw_commit)
    # One that is there already is ours if an earlier try was answered too late.
    if not is_new and store.get(f"{target}/{COMMIT}") != raw_commit:
        raise UnavailableError("another attempt has committed this step")

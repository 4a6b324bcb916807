"""Writing checkpoints beside training."""

import math
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import RushesError, UnavailableError, heard, told
from orchestrator.recipe.train import Save
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
    describe,
    folder,
)
from orchestrator.train.checkpoint.snapshot import HostBuffers, HostFile
from orchestrator.train.checkpoint.steps import drop_strays, newest_healthy, prune
from orchestrator.train.engine.base import Engine
from orchestrator.train.exchange import gather_json
from orchestrator.train.ownership import Ownership
from orchestrator.train.ranks import Ranks


@dataclass
class _Pending:
    """A checkpoint between its copy and its commit, on this rank."""

    step: int
    networks: dict[str, Network]
    extra: dict[str, Any]
    files: list[HostFile]
    beside: Mapping[str, bytes]
    metrics: Mapping[str, float]
    described: dict[str, File] = field(default_factory=dict[str, File])
    error: BaseException | None = None
    thread: threading.Thread | None = None


class Saver:
    """Saves in three steps: copy to host memory, write in a thread, commit when all have written.

    Only the copy holds up training. One checkpoint is under way at a time; the next one waits for
    it. All methods are collective.

    Args:
        store: where the run is.
        prefix: key of the folder of checkpoints.
        engines: networks by name.
        ranks: this process and its peers.
        save: which committed checkpoints are kept; others are deleted after a commit.
        ownership: asked on rank 0 before every commit and what is written over.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        *,
        engines: Mapping[str, Engine],
        ranks: Ranks,
        save: Save,
        ownership: Ownership,
    ) -> None:
        self._ownership = ownership
        self._store = store
        self._prefix = prefix
        self._engines = engines
        self._ranks = ranks
        self._save = save
        self._buffers = HostBuffers(engines, ranks=ranks)
        self._pending: _Pending | None = None

    def begin(
        self,
        *,
        step: int,
        extra: dict[str, Any],
        beside: Mapping[str, bytes] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Copies the state of now and starts to write it.

        Args:
            step: optimizer steps done.
            extra: JSON that ``load_latest`` gives back; if it says ``healthy: false``, the newest
                checkpoint that does not is kept.
            beside: rank 0's, bytes by key of the store, written over what is there before the
                commit: where the checkpoint exists, they do.
            metrics: values that ``Save.keep_best`` may ask for.

        Raises:
            RushesError: as ``finish``, for the checkpoint before.
        """
        self.finish()
        pending = _Pending(
            step=step,
            networks={
                name: Network(applied_steps=one.applied_steps)
                for name, one in self._engines.items()
            },
            extra=extra,
            files=self._buffers.copy(),
            beside=beside or {},
            metrics=metrics or {},
        )
        # A daemon: a process that has failed elsewhere must not wait for a store that is down.
        pending.thread = threading.Thread(
            target=self._write, args=(pending,), name="checkpoint", daemon=True
        )
        pending.thread.start()
        self._pending = pending

    def poll(self) -> bool:
        """Commits if every rank has written; to be called at every step.

        Returns:
            Whether a checkpoint was committed.

        Raises:
            RushesError: as ``finish``.
        """
        pending = self._pending
        if pending is None:
            return False
        assert pending.thread is not None
        return self._ranks.all(not pending.thread.is_alive()) and self.finish()

    def finish(self) -> bool:
        """Waits until the checkpoint under way, if any, is committed.

        Returns:
            Whether there was one.

        Raises:
            UnavailableError: on every rank, if any rank could not write; earlier checkpoints stay.
            FencedError: the same, if another gang has taken the stage over.
            UserError: the same, if what stands in the way is the user's (no space, no permission).
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return False
        assert pending.thread is not None
        pending.thread.join()
        mine = {
            "error": None if pending.error is None else told(pending.error),
            "files": {name: file.model_dump() for name, file in pending.described.items()},
            "slices": [
                {"shape": one.shape, "range": one.range.model_dump()}
                for file in pending.files
                for one in file.slices
            ],
        }
        self._commit(pending, gather_json(mine, device=self._ranks.device))
        return True

    def _write(self, pending: _Pending) -> None:
        target = folder(self._prefix, step=pending.step)
        try:
            self._refuse_committed(target)
            for file in pending.files:
                pending.described[file.name] = describe(file.raw)
                self._store.put(f"{target}/{file.name}", file.raw)
            if pending.beside and self._ranks.rank == 0:
                self._ownership.check()
                for key, raw in pending.beside.items():
                    self._store.put(key, raw)
        except BaseException as error:  # a thread's outer edge: ``finish`` raises it
            pending.error = error

    def _refuse_committed(self, target: str) -> None:
        # What another attempt has committed is not written over; not its index either.
        if self._store.exists(f"{target}/{COMMIT}"):
            raise UnavailableError("another attempt has committed this step")

    def _commit(self, pending: _Pending, everything: Sequence[Any]) -> None:
        target = folder(self._prefix, step=pending.step)
        error = next((one["error"] for one in everything if one["error"]), None)
        if error is None and self._ranks.rank == 0:
            index = Index(
                version=VERSION,
                step=pending.step,
                world_size=self._ranks.world_size,
                networks=pending.networks,
                parameters=_parameters([one for rank in everything for one in rank["slices"]]),
                files={
                    name: File(**file)
                    for rank in everything
                    for name, file in rank["files"].items()
                },
                extra=pending.extra,
            )
            try:
                self._ownership.check()
                self._refuse_committed(target)
                _commit(self._store, target, index=index, metrics=pending.metrics)
            except RushesError as failure:
                error = told(failure)
            else:
                with suppress(UnavailableError):  # what stays is deleted after the next commit
                    drop_strays(self._store, target, named=index.files)
                    is_healthy = pending.extra.get("healthy", True)
                    spare = None if is_healthy else newest_healthy(self._store, self._prefix)
                    prune(self._store, self._prefix, save=self._save, spare=spare)
        error = gather_json(error, device=self._ranks.device)[0]
        if error is not None:
            where = f"checkpoint {self._store.uri}/{target} was not written"
            raise heard(error, where=where) from pending.error


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


def _commit(store: Store, target: str, *, index: Index, metrics: Mapping[str, float]) -> None:
    raw_index = index.model_dump_json().encode()
    store.put(f"{target}/{INDEX}", raw_index)
    files = {**index.files, INDEX: describe(raw_index)}
    commit = Commit(version=VERSION, step=index.step, files=files, metrics=dict(metrics))
    raw_commit = commit.model_dump_json().encode()
    is_new = store.put_new(f"{target}/{COMMIT}", raw_commit)
    # One that is there already is ours if an earlier try was answered too late.
    if not is_new and store.get(f"{target}/{COMMIT}") != raw_commit:
        raise UnavailableError("another attempt has committed this step")

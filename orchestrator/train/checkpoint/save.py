"""Writing checkpoints beside training."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.errors import RushesError, UnavailableError, heard, told
from orchestrator.recipe.train import Save
from orchestrator.storage.store import Store
from orchestrator.train.checkpoint.commit import put_parameters_together, refuse_committed, write
from orchestrator.train.checkpoint.format import (
    VERSION,
    File,
    Index,
    Network,
    Parameter,
    describe,
    folder,
)
from orchestrator.train.checkpoint.snapshot import HostBuffers, HostFile
from orchestrator.train.checkpoint.steps import drop_strays, newest_healthy, prune
from orchestrator.train.engine.base import Engine
from orchestrator.train.exchange import gather_json
from orchestrator.train.ownership import Ownership
from orchestrator.train.ranks import Ranks

# Where writing slows training down the writer rests between two files, for this many times what the
# last one took: what a disk or a network takes of the processor is spread over more steps.
REST = 4.0


@dataclass
class _Pending:
    """A checkpoint between its copy and its commit, on this rank."""

    step: int
    networks: dict[str, Network]
    extra: dict[str, Any]
    files: list[HostFile]
    beside: Mapping[str, bytes]
    metrics: Mapping[str, float]
    started_s: float = field(default_factory=time.monotonic)
    is_copied: threading.Event = field(default_factory=threading.Event)
    described: dict[str, File] = field(default_factory=dict[str, File])
    is_written: bool = False  # by every rank
    is_waited_for: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    thread: threading.Thread | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no thread of this rank is at work."""
        return self.thread is None or not self.thread.is_alive()


class Saver:
    """Saves in three steps: copy to host memory, write, and commit when all ranks have written.

    Threads do all three beside training, ``poll`` looks how far they are. What changes the engines'
    state calls ``wait_for_copy`` before. One checkpoint is under way at a time; the next one waits
    for it. All methods but ``wait_for_copy`` are collective.

    Args:
        store: where the run is.
        prefix: key of the folder of checkpoints.
        engines: networks by name.
        ranks: this process and its peers.
        save: which committed checkpoints are kept; others are deleted after a commit.
        ownership: asked on rank 0 before every commit and what is written over.
        blocked: entered while training is held up.
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
        blocked: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._ownership = ownership
        self._blocked = blocked
        self._store = store
        self._prefix = prefix
        self._engines = engines
        self._ranks = ranks
        self._save = save
        self._buffers = HostBuffers(engines, ranks=ranks)
        self._parameters: dict[str, Parameter] | None = None  # the same in every checkpoint
        self._committed_metrics: dict[int, Mapping[str, float]] = {}
        self._committed_health: dict[int, bool] = {}
        self._pending: _Pending | None = None
        self.blocked_s = 0.0  # what training has waited in these methods, so far
        self.rests = False  # to be set where training feels it; never while somebody waits
        self.untidy: str | None = None  # on rank 0: why old checkpoints could not be deleted
        self.last_write_s = 0.0  # from the copy to the commit, of the last committed checkpoint

    @property
    def is_idle(self) -> bool:
        """Whether no thread of this rank is at work; not collective."""
        return self._pending is None or self._pending.is_idle

    @property
    def is_under_way(self) -> bool:
        """Whether a checkpoint is neither committed nor lost yet; the same on every rank."""
        return self._pending is not None

    def begin(
        self,
        *,
        step: int,
        extra: dict[str, Any],
        beside: Mapping[str, bytes] | None = None,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to copy and write the state of now, which has to stay until ``wait_for_copy``.

        Args:
            step: optimizer steps done.
            extra: JSON that ``load_latest`` gives back. Of the steps until its ``sound_until``,
                if it says that, the newest checkpoint without ``healthy: false`` is kept.
            beside: this rank's, bytes by key of the store, written over what is there before the
                commit: where the checkpoint exists, they do.
            metrics: values that ``Save.keep_best`` may ask for.

        Raises:
            RushesError: as ``finish``, for the checkpoint before.
        """
        self.finish()
        with self._blocking():
            pending = _Pending(
                step=step,
                networks={
                    name: Network(applied_steps=one.applied_steps)
                    for name, one in self._engines.items()
                },
                extra=extra,
                files=self._buffers.begin(),
                beside=beside or {},
                metrics=metrics or {},
            )
            self._start(pending, self._copy_and_write)
            self._pending = pending

    def wait_for_copy(self) -> None:
        """Returns once the engines may change: a step, a load, weights that are lent the EMA.

        Not collective. Whether the copy came about, ``poll`` and ``finish`` say.
        """
        if self._pending is not None and not self._pending.is_copied.is_set():
            self._buffers.wait_for_device()
            with self._blocking():
                self._pending.is_copied.wait()

    def poll(self, all_idle: bool) -> bool:
        """Goes on with the checkpoint under way where that does not wait; for every step.

        Args:
            all_idle: ``is_idle`` of every rank, the same on all.

        Returns:
            Whether a checkpoint was committed.

        Raises:
            RushesError: as ``finish``.
        """
        if self._pending is None or not all_idle:
            return False
        with self._blocking():
            return self._advance(self._pending)

    def finish(self) -> bool:
        """Waits until the checkpoint under way, if any, is committed.

        Returns:
            Whether there was one.

        Raises:
            UnavailableError: on every rank, if any rank could not write; earlier checkpoints stay.
            FencedError: the same, if another gang has taken the stage over.
            UserError: the same, if what stands in the way is the user's (no space, no permission).
        """
        is_committed = False
        with self._blocking():
            while self._pending is not None:
                self._pending.is_waited_for.set()
                if self._pending.thread is not None:
                    self._pending.thread.join()
                is_committed = self._advance(self._pending)
        return is_committed

    @contextmanager
    def _blocking(self) -> Iterator[None]:
        started_s = time.monotonic()
        try:
            with self._blocked():
                yield
        finally:
            self.blocked_s += time.monotonic() - started_s

    def _start(self, pending: _Pending, work: Callable[[_Pending], None]) -> None:
        # A daemon: a process that has failed elsewhere must not wait for a store that is down.
        pending.thread = threading.Thread(
            target=_outer_edge, args=(work, pending), name="checkpoint", daemon=True
        )
        pending.thread.start()

    def _advance(self, pending: _Pending) -> bool:
        """Takes over what the threads have done; whether the checkpoint is committed now."""
        if not pending.is_written:
            pending.is_written = True
            self._commit_written(pending)
            return False
        error = None if pending.error is None else told(pending.error)
        error = gather_json(error, device=self._ranks.device)[0]
        self._give_up_if(error, pending)
        self._pending = None
        self.last_write_s = time.monotonic() - pending.started_s
        return True

    def _commit_written(self, pending: _Pending) -> None:
        mine = {
            "error": None if pending.error is None else told(pending.error),
            "files": {name: file.model_dump() for name, file in pending.described.items()},
        }
        everything = gather_json(mine, device=self._ranks.device)
        self._give_up_if(next((one["error"] for one in everything if one["error"]), None), pending)
        parameters = self._gathered_parameters(pending.files)
        pending.thread = None
        if self._ranks.rank == 0:
            index = Index(
                version=VERSION,
                step=pending.step,
                world_size=self._ranks.world_size,
                networks=pending.networks,
                parameters=parameters,
                files={
                    name: File(**file) for one in everything for name, file in one["files"].items()
                },
                extra=pending.extra,
            )
            self._start(pending, partial(self._commit, index))

    def _gathered_parameters(self, files: Sequence[HostFile]) -> dict[str, Parameter]:
        """Where everything lies, over all ranks; asked for once, as it never changes."""
        if self._parameters is None:
            mine = [
                {"shape": one.shape, "range": one.range.model_dump()}
                for file in files
                for one in file.slices
            ]
            everything = gather_json(mine, device=self._ranks.device)
            self._parameters = put_parameters_together([one for rank in everything for one in rank])
        return self._parameters

    def _give_up_if(self, error: dict[str, str] | None, pending: _Pending) -> None:
        if error is not None:
            self._pending = None
            place = f"{self._store.uri}/{folder(self._prefix, step=pending.step)}"
            raise heard(error, where=f"checkpoint {place} was not written") from pending.error

    def _copy_and_write(self, pending: _Pending) -> None:
        try:
            self._buffers.copy()
        finally:
            pending.is_copied.set()
        self._write(pending)

    def _write(self, pending: _Pending) -> None:
        target = folder(self._prefix, step=pending.step)
        refuse_committed(self._store, target)
        for file in pending.files:
            began_s = time.monotonic()
            pending.described[file.name] = describe(file.raw)
            self._store.put(f"{target}/{file.name}", file.raw)
            if self.rests and file is not pending.files[-1]:
                pending.is_waited_for.wait(REST * (time.monotonic() - began_s))
        if pending.beside and self._ranks.rank == 0:
            self._ownership.check()
        for key, raw in pending.beside.items():
            self._store.put(key, raw)

    def _commit(self, index: Index, pending: _Pending) -> None:
        target = folder(self._prefix, step=pending.step)
        self._ownership.check()
        refuse_committed(self._store, target)
        write(self._store, target, index=index, metrics=pending.metrics)
        self._committed_metrics[pending.step] = pending.metrics
        self._committed_health[pending.step] = bool(index.extra.get("healthy", True))
        try:
            self._tidy(index)
        except UnavailableError:
            pass  # what stays is deleted after the next commit
        except (RushesError, OSError) as error:  # the checkpoint is there all the same
            self.untidy = str(error)

    def _tidy(self, index: Index) -> None:
        drop_strays(self._store, folder(self._prefix, step=index.step), named=index.files)
        spare = newest_healthy(
            self._store,
            self._prefix,
            until=int(index.extra.get("sound_until", index.step)),
            known=self._committed_health,
        )
        prune(
            self._store,
            self._prefix,
            save=self._save,
            known=self._committed_metrics,
            spare=spare,
        )


def _outer_edge(work: Callable[[_Pending], None], pending: _Pending) -> None:
    """What a thread runs."""
    try:
        work(pending)
    except BaseException as error:  # ``poll`` and ``finish`` raise it
        pending.error = error

"""The training stream: an endless, deterministic order of batches, one rank's slots of each."""

import queue
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from orchestrator.data.index import Bucket, Index, Sample
from orchestrator.data.order import BucketOrder, BucketSchedule, position_of
from orchestrator.data.packing import Image, PackedSlots, Packing
from orchestrator.data.reader import Reader, View
from orchestrator.data.window import window_draw
from orchestrator.errors import UserError

PREFETCHED_STEPS = 3


@dataclass(frozen=True)
class StepBatch:
    """One rank's clips of one optimizer step.

    Attributes:
        step: optimizer step, from 0.
        position: of these clips in the order of data: the step, where none was left out.
        ordinal: how many batches of the order before this one are of its bucket.
        slots: positions of these clips in the global batch: ``rank::world_size``.
        keys: sample keys, one per slot.
        samples: decoded arrays by name, one per slot.
        captions: wordings, one tuple per slot; none if the stream reads no captions.
        fps: frames per second, one per slot.
        packed: for a slot that holds independent images, those; empty for the others.
        bucket: frames, height and width of every clip of this step on every rank.
    """

    step: int
    position: int
    ordinal: int
    slots: tuple[int, ...]
    keys: tuple[str, ...]
    samples: tuple[dict[str, Any], ...]
    captions: tuple[tuple[str, ...], ...]
    fps: tuple[float, ...]
    packed: tuple[tuple[Image, ...], ...]
    bucket: Bucket


class Stream:
    """Batches of a source, read ahead by a thread.

    The order is a function of (seed, position) and the index alone; a step's position is its number
    unless batches before it were left out. Each step draws from one shape bucket, each bucket as
    often as it has clips.

    Args:
        index: the source.
        seed: of the order.
        batch: clips per step over all ranks.
        rank: this process.
        world_size: number of processes; must divide ``batch``.
        cache_dir, cache_bytes, memory_bytes, view: as for ``Reader``.
        captions: whether captions are read at all.
        packing: slots that hold independent images, or None for clips alone. Images of a source
            of their own share ``memory_bytes`` evenly with the clips.

    Raises:
        UserError: if the source has no clips.
    """

    def __init__(
        self,
        index: Index,
        *,
        seed: int,
        batch: int,
        rank: int,
        world_size: int,
        cache_dir: str | None = None,
        cache_bytes: int = 20_000_000_000,
        memory_bytes: int = 512_000_000,
        view: View | None = None,
        captions: bool = True,
        packing: Packing | None = None,
    ) -> None:
        if not len(index):
            raise UserError(f"{index.store.uri}: no clips, wanted at least one")
        self._index = index
        self._seed = seed
        self._batch = batch
        self._slots = tuple(range(rank, batch, world_size))
        self._captions = captions
        self._images = None if packing is None else packing.index
        self._buckets = list(index.buckets.items())
        self._orders = [
            BucketOrder(len(rows), seed=seed, name=repr(shape)) for shape, rows in self._buckets
        ]
        self._schedule = BucketSchedule([len(rows) for _, rows in self._buckets])

        def reader(source: Index) -> Reader:
            return Reader(
                source,
                cache_dir=cache_dir,
                cache_bytes=cache_bytes,
                memory_bytes=memory_bytes // (1 if self._images is None else 2),
                view=view,
            )

        self._reader = reader(index)
        self._packed = None
        if packing is not None:
            self._packed = PackedSlots(
                packing,
                reader=self._reader if self._images is None else reader(self._images),
                buckets=self._buckets,
                seed=seed,
                batch=batch,
                captions=captions,
            )
        self._step = 0
        self._left_out: list[int] = []
        self._wait_s = 0.0
        self._ahead: _Ahead | None = None

    def next(self) -> StepBatch:
        """The next step's clips; waits if they are not read yet."""
        if self._ahead is None:
            self._ahead = _Ahead(self, first=self._step)
        started_s = time.monotonic()
        batch = self._ahead.take()
        self._wait_s += time.monotonic() - started_s
        self._step += 1
        return batch

    def take_wait_s(self) -> float:
        """Seconds that ``next`` waited since the last call of this method."""
        waited_s, self._wait_s = self._wait_s, 0.0
        return waited_s

    def state_dict(self) -> dict[str, Any]:
        """The position; no world size is in it."""
        state = {"step": self._step, "seed": self._seed, "index": self._index.digest}
        if self._images is not None:
            state["images"] = self._images.digest
        return state | ({"left_out": self._left_out} if self._left_out else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved position.

        Raises:
            UserError: if it was saved over other clips or another order.
        """
        own = self.state_dict()
        for name in ("seed", "index", "images"):
            if state.get(name) != own.get(name):
                raise UserError(
                    f"{self._index.store.uri}: the checkpoint was made with {name}="
                    f"{state.get(name)}, seen {own.get(name)}; use the same data or a new --run"
                )
        self.close()
        self._step = int(state["step"])
        self._left_out = list(state.get("left_out", ()))

    def leave_out(self, positions: Iterable[int]) -> None:
        """From now on no step reads these places of the order; others that were left out stay so.

        Steps that were taken already must not lie behind them.
        """
        self.close()
        self._left_out = sorted({*self._left_out, *positions})

    def position(self, step: int) -> int:
        """The place in the order of data that a step reads."""
        return position_of(step, left_out=self._left_out)

    def close(self) -> None:
        """Stops reading ahead."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None

    def read_step(self, step: int) -> StepBatch:
        """This rank's clips of any step, read now."""
        position = self.position(step)
        bucket, ordinal = self._schedule.at(position)
        shape, rows = self._buckets[bucket]
        order = self._orders[bucket].batch(ordinal, size=self._batch)
        read = [
            self._reader.read(
                rows[order[slot]], draw=window_draw(slot, seed=self._seed, position=position)
            )
            for slot in self._slots
        ]
        return StepBatch(
            step=step,
            position=position,
            ordinal=ordinal,
            slots=self._slots,
            keys=tuple(sample.key for sample, _ in read),
            samples=tuple(arrays for _, arrays in read),
            captions=tuple(self._wordings(sample) for sample, _ in read),
            fps=tuple(sample.fps for sample, _ in read),
            packed=tuple(
                self._packed.at(slot, position=position, bucket=bucket, ordinal=ordinal)
                if self._packed is not None
                else ()
                for slot in self._slots
            ),
            bucket=shape,
        )

    def _wordings(self, sample: Sample) -> tuple[str, ...]:
        return sample.captions if self._captions else ()


class _Ahead:
    """A thread that reads steps in order, a few ahead of who takes them."""

    def __init__(self, stream: Stream, *, first: int) -> None:
        self._stream = stream
        self._step = first
        self._ready: queue.Queue[StepBatch | BaseException] = queue.Queue(PREFETCHED_STEPS)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)
        self._thread.start()

    def take(self) -> StepBatch:
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # every later call ends the same way
            raise item
        return item

    def stop(self) -> None:
        self._stopped.set()
        while self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.01)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                item: StepBatch | BaseException = self._stream.read_step(self._step)
            except BaseException as error:  # handed to the consumer, who raises it
                item = error
            self._ready.put(item)
            if isinstance(item, BaseException):
                return
            self._step += 1

"""The training stream: an endless, deterministic order of batches, one rank's slots of each."""

import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from threading import Lock
from typing import Any

from orchestrator.data.ahead import Ahead
from orchestrator.data.bad import BadSamples
from orchestrator.data.batch import Plan, StepBatch
from orchestrator.data.blocks import Allocate, allocate
from orchestrator.data.index import Bucket, Sample
from orchestrator.data.order import position_of
from orchestrator.data.packing import Image, PackedSlots, Packing
from orchestrator.data.pool import Draw, Part, Pool, buckets_of, identity_of
from orchestrator.data.reader import View
from orchestrator.data.readers import Readers
from orchestrator.data.schedule import BucketSchedule
from orchestrator.data.state import SHUFFLE_SHARDS, check_state, sizes_of
from orchestrator.data.window import window_draw
from orchestrator.errors import UserError

PREFETCHED_STEPS = 3
_PLANNED_STEPS = 64  # whose shards are fetched ahead


class Stream:
    """Batches of a source or a mix of them, read ahead by threads.

    The order is a function of (seed, position) and the indexes alone; a step's position is its
    number unless batches before it were left out. Each step draws from one shape bucket on all
    ranks, each bucket as often as it has clips.

    Args:
        parts: the source, or those that are mixed.
        seed: of the order.
        batch: clips per step over all ranks.
        rank: this process.
        world_size: number of processes; must divide ``batch``.
        multiples: shapes of which a step takes so many times ``batch`` clips; default: once.
        shuffle_shards: shards whose clips are shuffled together.
        workers: threads that read ahead; 0: a step is read when it is asked for.
        cache_dir, cache_bytes, view: as for ``Reader``.
        memory_bytes: as for ``Reader``; all sources have an even share of it.
        captions: whether captions are read at all.
        bad: as for ``Reader``, of all sources together.
        packing: slots that hold independent images, or None for clips alone.
        allocate: as for ``Reader``.

    Attributes:
        bad: samples that it has met; None where none may be.

    Raises:
        UserError: if a source has no clips.
        ValueError: if there are multiples and packed slots.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        seed: int,
        batch: int,
        rank: int,
        world_size: int,
        multiples: Mapping[Bucket, int] | None = None,
        shuffle_shards: int = SHUFFLE_SHARDS,
        workers: int = 1,
        cache_dir: str | None = None,
        cache_bytes: int = 20_000_000_000,
        memory_bytes: int = 512_000_000,
        view: View | None = None,
        captions: bool = True,
        bad: BadSamples | None = None,
        packing: Packing | None = None,
        allocate: Allocate = allocate,
    ) -> None:
        self._parts = tuple(parts)
        self._images = () if packing is None else packing.parts
        for part in (*self._parts, *self._images):
            if not len(part.index):
                raise UserError(f"{part.index.store.uri}: no clips, wanted at least one")
        self._has_windows = any(part.index.windowed for part in (*self._parts, *self._images))
        self._seed, self._batch = seed, batch
        self._rank, self._world_size = rank, world_size
        self._workers, self._shuffle_shards = workers, shuffle_shards
        self._captions = captions
        self.bad = bad
        buckets = buckets_of(self._parts)
        self._shapes = list(buckets)
        self._multiples = [(multiples or {}).get(shape, 1) for shape in buckets]
        if packing is not None and max(self._multiples) > 1:
            raise ValueError("packing with multiples, wanted steps of one size for packed slots")
        self._pools = [
            Pool(
                self._parts,
                rows=rows,
                size=batch * multiple,
                block=shuffle_shards,
                seed=seed,
                name=repr(shape),
            )
            for (shape, rows), multiple in zip(buckets.items(), self._multiples, strict=True)
        ]
        self._schedule = BucketSchedule(_weights(self._pools, self._parts, self._multiples))

        sources = len(self._parts) + len(self._images)
        readers = partial(
            Readers,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            memory_bytes=memory_bytes // sources,
            view=view,
            bad=bad,
            sources=sources,
            allocate=allocate,
        )
        self._readers = readers(self._parts)
        self._image_readers = readers(self._images) if self._images else self._readers
        self._packed = None
        if packing is not None:
            self._packed = PackedSlots(
                packing,
                clips=self._parts,
                buckets=buckets,
                seed=seed,
                batch=batch,
                block=shuffle_shards,
            )
        self._step, self._wait_s = 0, 0.0
        self._left_out: list[int] = []
        self._ahead: Ahead | None = None
        self._planning = Lock()  # a pool keeps the block that it was asked for last

    def next(self) -> StepBatch:
        """The next step's clips; waits if they are not read yet."""
        started_s = time.monotonic()
        batch = self._take() if self._workers else self.read_step(self._step)
        self._wait_s += time.monotonic() - started_s
        self._step += 1
        return batch

    def take_wait_s(self) -> float:
        """Seconds that ``next`` waited since the last call of this method."""
        waited_s, self._wait_s = self._wait_s, 0.0
        return waited_s

    def state_dict(self) -> dict[str, Any]:
        """The position; no world size is in it, and no number of threads."""
        state = {
            "step": self._step,
            "seed": self._seed,
            "index": identity_of(self._parts),
            "sizes": sizes_of(self._shapes, batch=self._batch, multiples=self._multiples),
        }
        if self._images:
            state["images"] = identity_of(self._images)
        if self._is_blocked or self._is_packed_blocked:
            state["shuffle_shards"] = self._shuffle_shards
        return state | ({"left_out": self._left_out} if self._left_out else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a saved position.

        Raises:
            UserError: if it was saved over other clips or another order.
        """
        check_state(
            state,
            own=self.state_dict(),
            uri=self._parts[0].index.store.uri,
            is_packed_alone=self._is_packed_blocked and not self._is_blocked,
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
        """Stops reading and fetching ahead, and keeps no shard open."""
        if self._ahead is not None:
            self._ahead.stop()
            self._ahead = None
        self._readers.close()
        self._image_readers.close()

    def plan(self, step: int) -> Plan:
        """Which clips this rank reads for any step; any thread may ask."""
        with self._planning:
            return self._plan(step)

    def _plan(self, step: int) -> Plan:
        position = self.position(step)
        bucket, ordinal = self._schedule.at(position)
        size = self._batch * self._multiples[bucket]
        slots = tuple(range(self._rank, size, self._world_size))
        packed: list[tuple[Draw, ...]] = [()] * len(slots)
        if self._packed is not None:
            packed = self._packed.draws(slots, position=position, bucket=bucket, ordinal=ordinal)
        return Plan(
            step=step,
            position=position,
            bucket=self._shapes[bucket],
            ordinal=ordinal,
            size=size,
            slots=slots,
            draws=tuple(self._pools[bucket].draws(ordinal, slots=slots)),
            packed=tuple(packed),
        )

    def read(self, plan: Plan) -> StepBatch:
        """The clips of a plan; several threads may read at a time."""
        windows = self._windows(plan)
        read = self._readers.read(plan.draws, windows=windows)
        return StepBatch(
            plan=plan,
            keys=tuple(sample.key for sample, _ in read),
            instead=self._readers.instead(plan.draws, read=read),
            parts=tuple(self._parts[draw.part].name for draw in plan.draws),
            samples=tuple(arrays for _, arrays in read),
            captions=tuple(self._wordings(sample) for sample, _ in read),
            fps=tuple(sample.fps for sample, _ in read),
            packed=tuple(
                self._image_slot(some, window=window) if some else ()
                for some, window in zip(plan.packed, windows, strict=True)
            ),
        )

    def read_step(self, step: int) -> StepBatch:
        """This rank's clips of any step, read now."""
        return self.read(self.plan(step))

    @property
    def _is_blocked(self) -> bool:
        return any(pool.is_blocked for pool in self._pools)

    @property
    def _is_packed_blocked(self) -> bool:
        return self._packed is not None and self._packed.is_blocked

    def _take(self) -> StepBatch:
        if self._ahead is None:
            self._ahead = Ahead(
                plan=self.plan,
                read=self.read,
                first=self._step,
                workers=self._workers,
                steps=max(PREFETCHED_STEPS, self._workers),
                planned=_PLANNED_STEPS,
                soon=self._fetch_ahead,
            )
        return self._ahead.take()

    def _fetch_ahead(self, plans: Sequence[Plan]) -> None:
        draws = [draw for plan in plans for draw in plan.draws]
        images = [draw for plan in plans for some in plan.packed for draw in some]
        if not self._images:
            draws, images = draws + images, []
        self._readers.fetch_ahead(draws)
        self._image_readers.fetch_ahead(images)

    def _windows(self, plan: Plan) -> list[float]:
        """What places the window of each slot's clip; where all clips are whole nothing does."""
        if not self._has_windows:
            return [0.0] * len(plan.slots)
        return [window_draw(slot, seed=self._seed, position=plan.position) for slot in plan.slots]

    def _image_slot(self, draws: Sequence[Draw], *, window: float) -> tuple[Image, ...]:
        parts = self._images or self._parts
        read = self._image_readers.read(draws, windows=[window] * len(draws))
        instead = self._image_readers.instead(draws, read=read)
        return tuple(
            Image(
                key=sample.key,
                instead=own,
                sample=arrays,
                captions=self._wordings(sample),
                part=parts[draw.part].name,
                place=draw.place,
            )
            for draw, own, (sample, arrays) in zip(draws, instead, read, strict=True)
        )

    def _wordings(self, sample: Sample) -> tuple[str, ...]:
        return sample.captions if self._captions else ()


def _weights(pools: Sequence[Pool], parts: Sequence[Part], multiples: Sequence[int]) -> list[float]:
    """How often each shape has its turn, so that clips of all come as their part's weight says."""
    if len(parts) == 1:
        return [pool.clips / multiple for pool, multiple in zip(pools, multiples, strict=True)]
    return [pool.weight / multiple for pool, multiple in zip(pools, multiples, strict=True)]

"""What readers see: shards, ``rows.parquet`` and, last, the index."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from orchestrator.data.head import HEAD
from orchestrator.data.index import write_index
from orchestrator.data.prepare import pack
from orchestrator.data.prepare.claim import ORIGIN, PREFIX, own_head
from orchestrator.data.prepare.fates import ROWS, Fate, write_fates
from orchestrator.data.prepare.files import write_rows
from orchestrator.data.prepare.pack import Planned
from orchestrator.data.prepare.steps import Units
from orchestrator.data.prepare.tasks import STEPS, Task, digest_of, output_of
from orchestrator.data.shards import ROWS_SUFFIX, read_written
from orchestrator.storage.store import Store

SHARDS, PLAN = "shards", "plan"


def is_published(store: Store, origin: dict[str, Any]) -> bool:
    """Whether all that is to be made is there, made from the same.

    Raises:
        UserError: if the place holds clips that were not prepared.
    """
    head = own_head(store)
    if head is None or head.origin != origin:
        return False
    shards = {one.name for one in head.shards}
    return store.exists(ROWS) and shards <= set(store.list(PREFIX))


def origin_of(source: str, *, digest: str, config: dict[str, Any]) -> dict[str, Any]:
    """What an index says of where its clips are from."""
    return {ORIGIN: source, "digest": digest, "config": config}


def publish(
    units: Units, planned: Sequence[Planned], fates: Iterable[Fate], *, origin: dict[str, Any]
) -> None:
    """Writes shards that are not there yet, then rows, then the index, if there are clips.

    Before the index, what steps wrote for other configurations is deleted.

    Raises:
        RushesError: what a store raised.
    """
    shards = _pack(units, planned)
    units.claim.check()
    write_fates(units.store, fates)
    units.forget_others()
    if shards:
        units.claim.check()
        write_index(
            units.store, [read_written(units.store, shard) for shard in shards], origin=origin
        )


def _pack(units: Units, planned: Sequence[Planned]) -> list[str]:
    """Writes the shards that are not there yet; returns the names of all."""
    store = units.store
    by_shard = {shard: list(part) for shard, part in groupby(planned, key=attrgetter("shard"))}
    tasks = [_shard_task(units, shard, part) for shard, part in by_shard.items()]
    there = set(store.list(f"{STEPS}/{SHARDS}/"))
    written = set(store.list(PREFIX))
    todo = [
        task
        for task, shard in zip(tasks, by_shard, strict=True)
        if task.output not in there or not {shard, f"{shard}{ROWS_SUFFIX}"} <= written
    ]
    others = written - {name for shard in by_shard for name in (shard, f"{shard}{ROWS_SUFFIX}")}
    if todo or others:
        # Nobody may read a source whose shards are about to change, nor may this be gone on with
        # by what is said of shards that were there before.
        units.delete([HEAD])
        units.forget_others([SHARDS])
        units.delete([task.output for task in todo])
        units.delete(sorted(others))
    plans = set(store.list(f"{STEPS}/{PLAN}/"))
    for task, part in zip(tasks, by_shard.values(), strict=True):
        if task in todo and task.inputs[PLAN] not in plans:
            write_rows(store, task.inputs[PLAN], part, kind=Planned)
    units.do(SHARDS, [(task,) for task in todo], skipped=len(tasks) - len(todo))
    return list(by_shard)


def _shard_task(units: Units, shard: str, part: Sequence[Planned]) -> Task:
    digest = digest_of(SHARDS, pack.VERSION, part)
    unit = shard.removesuffix(".tar").rpartition("-")[2]
    plan, output = (output_of(step, unit, digest=digest) for step in (PLAN, SHARDS))
    for step, file in ((PLAN, plan), (SHARDS, output)):
        units.adopt(step, unit, output=file)
    return Task(
        step=SHARDS,
        target=units.store.uri,
        unit=unit,
        inputs={PLAN: plan},
        output=output,
        videos=(),
        config=units.config.model_dump(mode="json"),
        owner=units.claim.token,
    )

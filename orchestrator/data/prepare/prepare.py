"""`rushes prepare` from end to end: steps in their order, then shards, rows, index."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from orchestrator.data.prepare import choose as choosing
from orchestrator.data.prepare import pack, transcode
from orchestrator.data.prepare.choose import Looked, choose, looked
from orchestrator.data.prepare.claim import take
from orchestrator.data.prepare.executors import Executor
from orchestrator.data.prepare.fates import Fate, Report, read_report
from orchestrator.data.prepare.finish import Finished, fates_of, planned_of
from orchestrator.data.prepare.listing import Listing
from orchestrator.data.prepare.publish import is_published, origin_of, publish
from orchestrator.data.prepare.records import (
    EMPTY,
    MISSING,
    NAME,
    REFUSED,
    Chosen,
    Clip,
    Cut,
    Encoded,
    Listed,
    Probed,
    Scored,
    Seen,
)
from orchestrator.data.prepare.steps import (
    LIST,
    OnProgress,
    Step,
    Units,
    model_step,
    model_steps,
    scoring_steps,
)
from orchestrator.data.prepare.tasks import digest_of
from orchestrator.errors import UserError
from orchestrator.recipe.prepare import Prepare
from orchestrator.storage.store import Store

CHOOSE, ENCODE = "choose", "encode"


def prepare(
    store: Store,
    listing: Listing,
    *,
    source: str,
    config: Prepare,
    executor: Executor,
    on_progress: OnProgress,
) -> Report:
    """Makes shards and their index of all that was listed, and a row for everything.

    What is done already, by an earlier call for the same videos and configuration, is not done
    again, and a call that was stopped anywhere is gone on with. Without a clip that is kept there
    are rows, and no index. A later call takes the target over.

    Args:
        store: the target.
        listing: what to prepare.
        source: URI that it was listed from.
        config: what to make of it.
        executor: who does the work.
        on_progress: told (step, done, all).

    Raises:
        UserError: if the source's store refuses every file, or the target holds what others wrote.
        FencedError: if a later call took the target over.
        RushesError: what a store or a plug-in raised.
    """
    claim = take(store)
    units = Units(
        *(store, listing.rows),
        claim=claim,
        config=config,
        executor=executor,
        on_progress=on_progress,
    )
    try:
        return _prepared(units, source=source)
    except UserError:
        claim.check()  # what is lacking may have been deleted by whoever took over
        raise


def _prepared(units: Units, *, source: str) -> Report:
    store, config = units.store, units.config
    digests = {unit: of[LIST] for unit, of in units.digests.items()}
    tree = config.model_dump(mode="json")
    versions = [
        *(step.version for step in (*scoring_steps(config), *model_steps(config))),
        *(choosing.VERSION, transcode.VERSION, pack.VERSION),
    ]
    origin = origin_of(source, digest=digest_of(digests, tree, versions), config=tree)
    if not is_published(store, origin):
        _make(units, source=source, origin=origin)
    if not config.keep_encoded:
        units.forget(ENCODE)
    return read_report(store)


def _make(units: Units, *, source: str, origin: dict[str, Any]) -> None:
    config = units.config
    digests = {unit: of[LIST] for unit, of in units.digests.items()}
    units.write(LIST, units.listed, kind=Listed, digests=digests)
    without_models, models = scoring_steps(config), model_steps(config)
    units.run(*without_models)
    _check_access(units, without_models, source=source)
    for step in models:
        units.run(step)
    clips = _looked(units)
    _choose(units, clips)
    _encode(units, clips)
    finished = _finished(units, clips)
    planned = list(planned_of(finished, config=config, source=source))
    fates = _fates(units, finished, shards={one.key: one.shard for one in planned})
    publish(units, planned, fates, origin=origin)


def _check_access(units: Units, steps: Sequence[Step], *, source: str) -> None:
    """A file that the store refuses is a row; if it refuses all, these are wrong credentials."""
    refused: list[Probed] = []
    for row in chain.from_iterable(
        units.read_unit("probe", unit, kind=Probed) for unit in units.listed
    ):
        if row.reason == REFUSED:
            refused.append(row)
        elif row.reason not in (MISSING, NAME, EMPTY):  # it was read
            return
    if refused:
        for step in steps:  # with others they are to be done again
            units.forget(step.name)
        raise UserError(
            f"{source}: all of {len(refused)} files are refused, wanted credentials that may read "
            f"them; {refused[0].detail}"
        )


def _looked(units: Units) -> dict[str, list[Looked]]:
    """Clips that were scored, by unit."""
    probed, clips = units.read("probe", kind=Probed), units.read("clips", kind=Clip)
    scored = units.read("score", kind=Scored)
    seen = [units.read(f"score-{one.id}", kind=Seen) for one in units.config.scorers]
    return {
        unit: list(
            looked(listed, probed[unit], clips[unit], scored[unit], [rows[unit] for rows in seen])
        )
        for unit, listed in units.listed.items()
    }


def _choose(units: Units, clips: Mapping[str, Sequence[Looked]]) -> None:
    """Over all units at once: doubles may be anywhere."""
    everything = [one for part in clips.values() for one in part]
    rows = iter(choose(everything, config=units.config))
    by_unit = {unit: [next(rows) for _ in part] for unit, part in clips.items()}
    digests = {unit: digest_of(CHOOSE, choosing.VERSION, part) for unit, part in by_unit.items()}
    units.write(CHOOSE, by_unit, kind=Chosen, digests=digests)


def _encode(units: Units, clips: Mapping[str, Sequence[Looked]]) -> None:
    """Encodes what was chosen, then shows it to models that write captions."""
    chosen = units.read(CHOOSE, kind=Chosen)
    config = units.config
    digests: dict[str, str] = {}
    for unit, part in clips.items():
        kept = [row for row in chosen[unit] if row.reason is None]
        buckets = [config.buckets[row.bucket or 0].model_dump(mode="json") for row in kept]
        videos = {one.listed.key: one.listed for one in part}
        needed = [videos[key] for key in sorted({row.video for row in kept})]
        # Its number among the buckets does not matter, what it is does.
        cuts = [replace(row, bucket=None) for row in kept]
        if kept:
            digests[unit] = digest_of(
                *(ENCODE, transcode.VERSION, config.encoding.model_dump(mode="json")),
                *(cuts, buckets, needed),
            )
    if not digests:
        return
    units.run_as(Step(ENCODE, transcode.VERSION, (LIST, CHOOSE)), digests=digests)
    for number, model in enumerate(config.captioners):
        step = model_step("caption", model, number=number, inputs=(LIST, "probe", ENCODE))
        units.run(step, units=tuple(digests))


def _finished(units: Units, clips: Mapping[str, Sequence[Looked]]) -> list[Finished]:
    """Clips as they are after all steps."""
    chosen, encoded = units.read(CHOOSE, kind=Chosen), units.read(ENCODE, kind=Encoded)
    models = [units.read(f"caption-{one.id}", kind=Seen) for one in units.config.captioners]
    return [
        Finished.of(
            one,
            row,
            encoded={row.key: row for row in encoded[unit]},
            said=[{row.key: row for row in rows[unit]} for rows in models],
        )
        for unit, part in clips.items()
        for one, row in zip(part, chosen[unit], strict=True)
    ]


def _fates(units: Units, finished: Sequence[Finished], *, shards: Mapping[str, str]) -> list[Fate]:
    probed, cuts = units.read("probe", kind=Probed), units.read("scenes", kind=Cut)
    clips = units.read("clips", kind=Clip)
    by_key = {one.chosen.key: one for one in finished}
    rows = chain.from_iterable(
        fates_of(
            *(listed, probed[unit], cuts[unit], clips[unit]),
            finished=by_key,
            shards=shards,
            config=units.config,
        )
        for unit, listed in units.listed.items()
    )
    return sorted(rows, key=lambda one: (one.video, one.key != one.video, one.key))

"""`rushes data audit`: whether every epoch of a run gave each clip once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.data.audit import Epoch, Examiner, Report
from orchestrator.data.pool import Part, identity_of, shapes_of
from orchestrator.data.usage import Part as Piece
from orchestrator.data.usage import Use
from orchestrator.errors import RushesError, UserError
from orchestrator.launch.data_table import say
from orchestrator.launch.run_folder import open_run
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.storage.store import Store
from orchestrator.train.audit import read_pieces
from orchestrator.train.budget import multiples
from orchestrator.train.checkpoint.format import Index as CheckpointIndex
from orchestrator.train.checkpoint.format import folder
from orchestrator.train.checkpoint.reader import Checkpoint, DamagedError
from orchestrator.train.checkpoint.steps import committed
from orchestrator.train.sources import clips_of, images_of

_FAULTS = 20  # that are printed


@dataclass
class StageAudit:
    """What is known of a stage.

    Attributes:
        stage: its id.
        start, stop: steps done before the first row, and in the newest checkpoint.
        readers: of the gangs whose steps count, in order: ranks, or groups that share clips.
        report: what was found.
    """

    stage: str
    start: int
    stop: int
    report: Report
    readers: list[int] = field(default_factory=list[int])


def audit_run(uri: str, *, on_steps: Callable[[str, int, int], None]) -> list[StageAudit]:
    """Looks at every stage of a run that has a checkpoint with an audit.

    Args:
        uri: the run's folder.
        on_steps: told of every step that was looked at: stage, steps so far, all of them.

    Raises:
        UserError: if there is no run, no stage was audited, part of an audit is missing, or the
            clips are not those that were trained on.
    """
    store, recipe = open_run(uri)
    found: list[StageAudit] = []
    for stage in recipe.stages:
        says = _newest(store, stage)
        if says is not None and says.extra.get("audit") is not None:
            found.append(_audit(store, recipe, stage, says=says, on_steps=on_steps))
    if not found:
        raise UserError(
            f"RUN={uri}: no checkpoint says which clips it was trained on, wanted a run with "
            "data.audit: true in its recipe"
        )
    return found


def print_audit(found: list[StageAudit], *, console: Console) -> None:
    """A paragraph per stage.

    Raises:
        RushesError: if anything was found that should not be.
    """
    faults = 0
    for audit in found:
        for line in _lines(audit):
            say(line, console=console)
        faults += len(audit.report.faults)
    if faults:
        raise RushesError(f"{faults} fault(s): clips were not used once an epoch")


def _newest(store: Store, stage: Stage) -> CheckpointIndex | None:
    prefix = f"stages/{stage.id}/checkpoints"
    for step in committed(store, prefix):
        try:
            target = folder(prefix, step=step)
            return Checkpoint.open(store, target, step=step, scratch=Path()).index
        except DamagedError:
            continue  # as the next start will
    return None


def _audit(
    store: Store,
    recipe: Recipe,
    stage: Stage,
    *,
    says: CheckpointIndex,
    on_steps: Callable[[str, int, int], None],
) -> StageAudit:
    stream = says.extra["stream"]
    clips = clips_of(recipe, stage, run=store.uri)
    images = images_of(recipe, stage)
    _check_same(clips, stream["index"], stage=stage)
    _check_same(images, stream.get("images"), stage=stage)
    pieces = read_pieces(store, f"stages/{stage.id}", last=says.extra["audit"], stop=says.step)
    examiner = Examiner(
        clips,
        batch=stage.training.batch,
        multiples=multiples(recipe, stage, buckets=shapes_of(clips)),
        left_out=stream.get("left_out", ()),
        images=images,
    )
    start, done, gangs = says.step, 0, []
    for parts in pieces:
        start = parts[0].head.start
        gangs.append(len(parts))
        for uses in _by_step(parts):
            examiner.step(uses)
            done += 1
            on_steps(stage.id, done, says.step)
    readers = [readers for readers, _ in groupby(reversed(gangs))]
    return StageAudit(
        stage=stage.id,
        start=start,
        stop=says.step,
        readers=readers,
        report=examiner.report(start=start, stop=says.step),
    )


def _check_same(parts: Sequence[Part], seen: Any, *, stage: Stage) -> None:
    if parts and (digests := identity_of(parts)) != seen:
        where = ", ".join(part.index.store.uri for part in parts)
        raise UserError(
            f"{where}: the clips have digest {digests}, wanted {seen} as when stage {stage.id} was "
            "trained"
        )


def _by_step(parts: list[Piece]) -> Iterator[list[Use]]:
    uses = sorted((use for part in parts for use in part.uses), key=lambda use: use.step)
    for _, some in groupby(uses, key=lambda use: use.step):
        yield list(some)


def _lines(audit: StageAudit) -> Iterator[str]:
    report = audit.report
    since = f" from step {audit.start} on" if audit.start else ""
    readers = ", then ".join(str(count) for count in audit.readers)
    clips = f"{report.clips.total():,} clips"
    yield f"{audit.stage}: {report.steps:,} steps{since} on {readers} reader(s), {clips}"
    if any(report.clips):
        total = report.clips.total()
        yield "  " + ", ".join(
            f"{part} {clips:,} clips ({clips / total:.1%})"
            for part, clips in sorted(report.clips.items())
        )
    if report.packed:
        yield f"  {report.packed:,} of them gave way to {report.images:,} independent images"
    for (bucket, part), some in groupby(report.epochs, key=lambda one: (one.bucket, one.part)):
        shape = "x".join(str(side) for side in bucket)
        yield f"  {f'{part} ' if part else ''}{shape}: {_epochs(list(some))}"
    for fault in report.faults[:_FAULTS]:
        yield f"  {fault}"
    if len(report.faults) > _FAULTS:
        yield f"  and {len(report.faults) - _FAULTS} more"


def _epochs(epochs: list[Epoch]) -> str:
    whole = [epoch for epoch in epochs if epoch.is_whole]
    told = [f"{len(whole)} whole epoch(s) of {epochs[0].clips} clips"] if whole else []
    told += [
        f"{epoch.used} of {epoch.clips} clips of epoch {epoch.number + 1}"
        for epoch in epochs
        if not epoch.is_whole
    ]
    left_out = sum(epoch.left_out for epoch in epochs)
    told += [f"{left_out} left out by rewinds"] if left_out else []
    bad = sum(epoch.bad for epoch in epochs)
    told += [f"{bad} that could not be read left out, others in their place"] if bad else []
    return ", ".join(told)

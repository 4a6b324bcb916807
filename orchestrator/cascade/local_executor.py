"""Runs stages without Ray: in this process, or one plain process per rank."""

import threading
from pathlib import Path

from orchestrator.cascade.events import encode_progress, encode_started, gang_started
from orchestrator.cascade.executor import DirectHooks, EventSink, encoded_event
from orchestrator.cascade.gang import run_gang
from orchestrator.train.job import StageJob, StageResult


class LocalExecutor:
    """Executor on this machine alone, one stage at a time.

    A training stage of one rank, encoding and evaluation run in the calling thread, so that a
    debugger reaches them.

    Args:
        logs: a local folder for what ranks print.
    """

    side_by_side = False

    def __init__(self, *, logs: Path) -> None:
        self._logs = logs

    def fits(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
        """One stage at a time."""
        return not beside

    def wait_for_room(self, jobs: tuple[StageJob, ...], *, beside: tuple[StageJob, ...]) -> None:
        """No gang grows here."""

    def check(self) -> str | None:
        """This machine is there."""
        return None

    def run(self, job: StageJob, *, on_event: EventSink, stop: threading.Event) -> StageResult:
        """Runs a stage; blocks."""
        match job.spec.kind:
            case "train" | "distill" if job.spec.compute.ranks > 1:
                return run_gang(job, on_event=on_event, stop=stop, logs=self._logs)
            case "train" | "distill":
                return _train_here(job, on_event=on_event, stop=stop)
            case "encode":
                return _encode_here(job, on_event=on_event, stop=stop)
            case "evaluate":
                return _evaluate_here(job, on_event=on_event, stop=stop)


def _train_here(job: StageJob, *, on_event: EventSink, stop: threading.Event) -> StageResult:
    on_event(gang_started(job.stage, workers=1))
    from orchestrator.train.worker import run

    return run(job, hooks=DirectHooks(on_event, stop))


def _encode_here(job: StageJob, *, on_event: EventSink, stop: threading.Event) -> StageResult:
    from orchestrator.train.encode import Encoder, finish_encode
    from orchestrator.train.encode_plan import plan_encode

    plan = plan_encode(job)
    found, shards = plan.found, plan.shards
    for event in encode_started(job.stage, found=found, shards=shards, notes=plan.notes):
        on_event(event)
    encoder = Encoder(job) if plan.units else None
    for done, unit in enumerate(plan.units):
        if stop.is_set():
            return StageResult(status="stopped", step=found + done)
        assert encoder is not None
        encoder(unit)
        on_event(encode_progress(job.stage, done=done + 1, found=found, shards=shards))
    on_event(encoded_event(job, digest=finish_encode(job, plan)))
    return StageResult(status="done", step=shards)


def _evaluate_here(job: StageJob, *, on_event: EventSink, stop: threading.Event) -> StageResult:
    from orchestrator.train.evaluate import evaluate_stage

    return evaluate_stage(job, hooks=DirectHooks(on_event, stop))

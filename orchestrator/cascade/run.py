"""Walks a recipe's graph: ready stages side by side, finished ones left alone."""

import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

from orchestrator.cascade.done import is_finished, output_digest, read_done, write_done
from orchestrator.cascade.events import dataset_events, run_event, stage_event
from orchestrator.cascade.executor import EventSink, Executor, NoRoomError
from orchestrator.cascade.explain import one_line
from orchestrator.cascade.versions import claim
from orchestrator.errors import FencedError, RushesError, StoppedError
from orchestrator.plan.graph import input_digest, stage_graph, stages_after
from orchestrator.recipe.recipe import Recipe
from orchestrator.recipe.stage import Stage
from orchestrator.redact import redact
from orchestrator.storage.store import Store
from orchestrator.train.job import StageJob

_POLL_S = 0.2
KEPT = "done before"


class Turn(Enum):
    """What comes of a stage's turn: it is over for this start, or it found no room."""

    OVER = "over"
    AGAIN = "again"


Submit = Callable[[Callable[[StageJob], Turn], StageJob], Future[Turn]]


def _at_once(work: Callable[[StageJob], Turn], job: StageJob) -> Future[Turn]:
    """Runs it here and now: a debugger and Ctrl-C reach it."""
    future: Future[Turn] = Future()
    future.set_result(work(job))
    return future


Status = Literal["done", "kept", "failed", "stopped", "blocked"]


@dataclass(frozen=True)
class Outcome:
    """How a stage ended.

    Attributes:
        status: ``kept`` was finished by an earlier start; ``blocked`` needs a stage that failed
            or was stopped.
        seconds: from its start in this command.
        error: why it failed.
        missing: the stages that it waited for to the end.
    """

    status: Status
    seconds: float = 0.0
    error: RushesError | None = None
    missing: tuple[str, ...] = ()


@dataclass
class Graph:
    """One start of a run.

    Args:
        recipe: what is run, with absolute URIs.
        store: the run's folder.
        attempt: the number of this start.
        data: digests of the data indexes.
        executor: who runs stages.
        on_event: takes every event, from several threads.
        stop: set to let the stages save and end.
        logs: a local folder for the traces of defects.
    """

    recipe: Recipe
    store: Store
    attempt: int
    data: Mapping[str, str]
    executor: Executor
    on_event: EventSink
    stop: threading.Event
    logs: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict[str, Outcome])
    passed: set[str] = field(default_factory=set[str])  # waiting; a later stage went first once
    fenced: bool = False  # a newer start has the run: what this one still says is not the run's

    def run(self) -> dict[str, Outcome]:
        """Runs what is not finished; returns how every stage ended, in the recipe's order.

        Raises:
            UnavailableError: if the executor lost what stages run on.
            StoppedError: by a second signal, at once.
        """
        waiting = self._skip_finished()
        self._say(run_event(self.recipe, run=self.store.uri, attempt=self.attempt))
        running: dict[Future[Turn], StageJob] = {}
        try:
            with self._pool() as submit:
                self._walk(waiting, running, submit)
        except RushesError as error:
            self._say_left(running.values(), error=error)
            raise
        for stage in waiting:
            status: Status = "stopped" if self.stop.is_set() else "blocked"
            self.outcomes[stage] = Outcome(status=status, missing=self._missing(stage))
        self._say({"kind": "end", "stage": None, "status": self._status()})
        return {stage.id: self.outcomes[stage.id] for stage in self.recipe.stages}

    def _walk(
        self, waiting: list[str], running: dict[Future[Turn], StageJob], submit: Submit
    ) -> None:
        while running or waiting:
            self._start_ready(waiting, running, submit)
            if not running:
                break
            ended, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in ended:
                job = running.pop(future)
                if future.result() is Turn.AGAIN:
                    waiting.append(job.stage)
            if running:
                self._stop_if_leaving(running.values())

    def _stop_if_leaving(self, jobs: Iterable[StageJob]) -> None:
        reason = self.executor.check()
        if reason is not None and not self.stop.is_set():
            for job in jobs:
                text = f"{reason}: saves and stops"
                self._say({"kind": "note", "stage": job.stage, "text": text})
            self.stop.set()

    def _say_left(self, jobs: Iterable[StageJob], *, error: RushesError) -> None:
        """The end of stages whose threads are not waited for."""
        status: Status = "stopped" if isinstance(error, StoppedError) else "failed"
        for job in jobs:
            self._say_end(job.stage, status=status, error=error)
        self._say({"kind": "end", "stage": None, "status": _TRACKED[status]})

    @contextmanager
    def _pool(self) -> Iterator[Submit]:
        if not self.executor.side_by_side:
            yield _at_once
            return
        # The name is what orchestrator/__main__.py knows them by.
        pool = ThreadPoolExecutor(len(self.recipe.stages), thread_name_prefix="stage")
        try:
            yield lambda work, job: pool.submit(work, job)
        except BaseException:  # a second signal wants to be gone at once
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        pool.shutdown()

    def _skip_finished(self) -> list[str]:
        waiting: list[str] = []
        for stage in self.recipe.stages:
            if not is_finished(self.store, self.recipe, stage, inputs=self._input(stage)):
                waiting.append(stage.id)
                continue
            self.outcomes[stage.id] = Outcome(status="kept")
            self._say({"kind": "status", "stage": stage.id, "text": KEPT})
        return waiting

    def _start_ready(
        self,
        waiting: list[str],
        running: dict[Future[Turn], StageJob],
        submit: Submit,
    ) -> None:
        def start(job: StageJob) -> None:
            waiting.remove(job.stage)
            running[submit(self._run, job)] = job

        after = stages_after(self.recipe)
        ready = [
            self._job(stage)
            for stage in sorted(waiting, key=lambda one: -after[one])
            if not self._missing(stage)
        ]
        behind: set[str] = set()
        for job in ready:
            if self.stop.is_set():
                return
            if self.executor.fits(job, beside=tuple(running.values())):
                start(job)
                self.passed = (self.passed | behind) - {job.stage}
            elif job.stage in self.passed and self.executor.fits(job, beside=()):
                break  # it keeps its room until it starts
            else:
                behind.add(job.stage)
        turned_away = tuple(job for job in ready if job.stage in waiting)
        self.executor.wait_for_room(turned_away, beside=tuple(running.values()))
        if ready and not running and not self.stop.is_set():
            start(ready[0])  # it fits not even alone; a cluster may grow

    def _job(self, stage: str) -> StageJob:
        return StageJob(recipe=self.recipe, stage=stage, run=self.store.uri, attempt=self.attempt)

    def _run(self, job: StageJob) -> Turn:
        """One stage from its first event to its last, in a thread of its own."""
        stage = job.spec
        started_s = time.monotonic()
        self._say(stage_event(stage, inputs=self._input(stage)))
        for event in dataset_events(self.recipe, stage, data=self.data):
            self._say(event)
        status: Status = "failed"
        error: RushesError | None = None
        try:
            status = self._run_to_done(job)
        except NoRoomError as shortage:
            if not self.stop.is_set():
                self._say_waiting(stage.id, text=str(shortage))
                return Turn.AGAIN
            status = "stopped"
        except RushesError as known:
            error = known
            self.fenced = self.fenced or isinstance(known, FencedError)
        except Exception as unknown:  # a thread's outer edge: nobody else would see it
            self.logs.mkdir(parents=True, exist_ok=True)
            log = self.logs / f"{stage.id}.log"
            log.write_text(redact(traceback.format_exc()))
            error = RushesError(f"stage {stage.id}: {one_line(unknown)}; log: {log}")
        seconds = time.monotonic() - started_s
        self.outcomes[stage.id] = Outcome(status=status, seconds=seconds, error=error)
        self._say_end(stage.id, status=status, error=error)
        return Turn.OVER

    def _say_end(self, stage: str, *, status: Status, error: RushesError | None) -> None:
        if error is not None:
            self._say({"kind": "note", "stage": stage, "text": str(error), "failure": True})
        self._say({"kind": "end", "stage": stage, "status": _TRACKED[status]})

    def _say_waiting(self, stage: str, *, text: str) -> None:
        self._say({"kind": "note", "stage": stage, "text": f"{text}; waits for room"})
        self._say({"kind": "end", "stage": stage, "status": _TRACKED["stopped"]})
        self._say({"kind": "status", "stage": stage, "text": "waiting"})

    def _run_to_done(self, job: StageJob) -> Status:
        results: list[dict[str, Any]] = []

        def on_event(event: dict[str, Any]) -> None:
            if event["kind"] in ("model", "dataset"):
                results.append(event)
            self._say(event)

        inputs = self._input(job.spec)
        said = claim(self.store, stage=job.stage, inputs=inputs)
        if read_done(self.store, stage=job.stage) is not None:
            said = "was done, but shards of its latents are gone: it encodes them again"
        if said is not None:
            self._say({"kind": "note", "stage": job.stage, "text": said})
        result = self.executor.run(job, on_event=on_event, stop=self.stop)
        if result.status == "done":
            write_done(
                self.store,
                stage=job.stage,
                inputs=inputs,
                output=output_digest(self.store, stage=job.stage, events=results),
                step=result.step,
            )
        return result.status

    def _input(self, stage: Stage) -> str:
        return input_digest(self.recipe, stage, data=self.data)

    def _missing(self, stage: str) -> tuple[str, ...]:
        """What a stage needs and what is not done."""
        return tuple(one for one in stage_graph(self.recipe)[stage] if not self._is_done(one))

    def _is_done(self, stage: str) -> bool:
        return stage in self.outcomes and self.outcomes[stage].status in ("done", "kept")

    def _say(self, event: dict[str, Any]) -> None:
        self.on_event(event)

    def _status(self) -> str:
        statuses = {outcome.status for outcome in self.outcomes.values()}
        if "failed" in statuses:
            return "FAILED"
        return "KILLED" if "stopped" in statuses else "FINISHED"


_TRACKED = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


def raise_first_failure(outcomes: Mapping[str, Outcome]) -> None:
    """Raises what ``first_failure`` found, unless every stage is done."""
    failure = first_failure(outcomes)
    if failure is not None:
        raise failure


def first_failure(outcomes: Mapping[str, Outcome]) -> RushesError | None:
    """What the run as a whole ends with: the first failed stage's error, StoppedError, or none."""
    errors = [outcome.error for outcome in outcomes.values() if outcome.error is not None]
    if errors:
        return errors[0]
    if any(outcome.status == "stopped" for outcome in outcomes.values()):
        return StoppedError("stopped and saved; the same command goes on from here")
    return None

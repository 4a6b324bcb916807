"""One rank of one stage from its first step to its last."""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from orchestrator.data.batch import StepBatch
from orchestrator.data.stream import Stream
from orchestrator.errors import RushesError, heard, told
from orchestrator.storage.store import Store
from orchestrator.train.audit import Audit
from orchestrator.train.bad_samples import SharedBad
from orchestrator.train.care import Care
from orchestrator.train.engine.base import Engine
from orchestrator.train.exchange import gather_json
from orchestrator.train.finish import finish
from orchestrator.train.health import Verdict
from orchestrator.train.hooks import Asked, Hooks
from orchestrator.train.job import StageJob, StageResult
from orchestrator.train.loop import Loop, Step
from orchestrator.train.metrics_log import MetricsLog
from orchestrator.train.ownership import Ownership
from orchestrator.train.pause import Pauses
from orchestrator.train.preview import Preview
from orchestrator.train.pulse import Pulse
from orchestrator.train.ranks import Ranks
from orchestrator.train.recorder import Recorder
from orchestrator.train.run_state import RunState
from orchestrator.train.saves import Saves
from orchestrator.train.tasks.base import Task
from orchestrator.train.tasks.pixels import PixelTask
from orchestrator.train.window import Window


class Session:
    """The parts of a rank that trains, and what happens between two of its steps.

    Args:
        job: the stage.
        ranks: this process and its peers.
        store: where the run is.
        task: what is trained.
        engines: around its networks.
        stream: this rank's clips.
        scratch: a local folder of this process.
        hooks: whom it tells, and who asks.
        pulse: its clock and its beat.
    """

    def __init__(
        self,
        *,
        job: StageJob,
        ranks: Ranks,
        store: Store,
        task: Task,
        engines: Mapping[str, Engine],
        stream: Stream,
        scratch: Path,
        hooks: Hooks,
        pulse: Pulse,
    ) -> None:
        self._job = job
        self._steps = job.spec.training.steps
        self._ranks = ranks
        self._store = store
        self._task = task
        self._engines = engines
        self._stream = stream
        self._hooks = hooks
        self._ledger, self._beat = pulse.ledger, pulse.beat
        self._pauses = Pauses(hooks, ranks=ranks)
        key = f"{job.folder}/metrics.jsonl"
        log = self._log = MetricsLog(scratch / "metrics.jsonl", store=store, key=key)
        self._recorder = Recorder(
            stage=job.spec,
            ranks=ranks,
            log=log,
            event=self._event,
            ledger=pulse.ledger,
            nodes=pulse.nodes,
        )
        self._ownership = Ownership(store, job.folder, attempt=job.attempt)
        self._care = Care(job, store=store, ranks=ranks, first=self._first, event=self._event)
        self._state = RunState(
            recipe=job.recipe,
            ranks=ranks,
            stream=stream,
            recorder=self._recorder,
            log=log,
            care=self._care,
            audit=Audit(job.folder, ranks=ranks) if job.recipe.data.audit else None,
            bad=None if stream.bad is None else SharedBad(stream.bad, ranks=ranks, note=self._note),
        )
        self._saves = Saves(
            job,
            store=store,
            engines=engines,
            ranks=ranks,
            ownership=self._ownership,
            state=self._state,
            ledger=pulse.ledger,
            note=self._note,
        )
        self._preview = Preview(
            job,
            store=store,
            ranks=ranks,
            event=self._event,
            text=task.frozen if isinstance(task, PixelTask) else None,
        )

    def run(self) -> StageResult:
        """Takes the stage over, trains it to its end or to a saved stop, writes its weights."""
        self._moment("begun")
        self._first(self._ownership.take)
        self._care.resume()
        start, window = self._saves.resume()
        self._moment("loaded", step=start)
        if start:
            self._tell_history()
        stopped_at = self._train(start, window)
        if stopped_at is not None:
            return StageResult(status="stopped", step=stopped_at)
        with self._ledger.in_phase("save_blocked"):
            finish(
                self._job,
                store=self._store,
                ranks=self._ranks,
                task=self._task,
                engines=self._engines,
                event=self._event,
                before_writing=lambda: self._first(self._ownership.check),
            )
        return StageResult(status="done", step=self._steps)

    def _train(self, start: int, window: Window) -> int | None:
        """Trains to the end; the step at which it was stopped, if it was."""
        loop = Loop(
            stage=self._job.spec,
            seed=self._job.recipe.seed,
            task=self._task,
            engines=self._engines,
            stream=self._stream,
            ranks=self._ranks,
            asked=self._pauses.asked,
            idle=self._saves.is_idle,
            settled=self._settled,
            took=self._took,
            before_update=self._saves.wait_for_copy,
            ledger=self._ledger,
            monitor=self._care.monitor,
        )
        self._beat.step = start
        while start < self._steps:
            for step in loop.steps(start=start, window=window):
                start = self._beat.step = step.number
                verdict = self._after(step)
                if step.stop and step.number < self._steps:
                    return step.number
                if verdict is not None:
                    with self._ledger.in_phase("save_blocked"):
                        start, window = self._rewind(verdict, at=step)
                    self._beat.step = start
                    break
        return None

    def _settled(self, batch: StepBatch) -> StepBatch:
        bad = self._state.bad
        return batch if bad is None else bad.settle(batch, read=self._stream.read)

    def _took(self, batch: StepBatch) -> None:
        if self._state.audit is not None:
            self._state.audit.took(batch)

    def _after(self, step: Step) -> Verdict | None:
        self._saves.pace.step_ended()
        is_last = step.number == self._steps or step.stop
        pause = step.asked is Asked.PAUSE and not is_last
        self._record(step, is_interrupted=step.stop or pause)
        verdict = self._care.monitor.verdict()
        if verdict is not None and (step.number == self._steps or not step.stop):
            return verdict  # a stop before the end comes first: the next start goes back
        self._saves.after(step, is_last=is_last)
        if self._preview.is_due(step.number):
            self._saves.wait_for_copy()
            with self._ledger.in_phase("evaluation"):
                self._preview.sample(self._engines, step=step.number)
        if pause:
            with self._ledger.in_phase("save_blocked"):
                self._pause(step)
        self._saves.pace.step_begins()
        return None

    def _record(self, step: Step, *, is_interrupted: bool) -> None:
        if step.refusal is not None:
            self._care.refused(step.refusal)
        if step.ends_window:
            more = self._saves.pace.metrics() | {"rewinds": float(self._care.rewinds)}
            if self._state.bad is not None:
                more |= self._state.bad.share()
            self._state.metrics = self._recorder.record(step, more=more)
            self._care.monitor.logged(step.number, loss=self._state.metrics.get("loss", math.nan))
        elif is_interrupted:
            self._recorder.stopped(step)

    def _pause(self, step: Step) -> None:
        """Waits, once all is saved, to be started anew: what comes next would be repeated."""
        if self._saves.settle():
            self._pauses.wait(step=step.number)
        else:
            self._pauses.refuse()

    def _rewind(self, verdict: Verdict, *, at: Step) -> tuple[int, Window]:
        """Back to the newest healthy checkpoint, to go on without the batches of bad steps."""
        self._saves.settle()
        self._first(self._ownership.check)
        self._care.check_rewinds(verdict, at=at)
        positions = [self._stream.position(step) for step in verdict.steps]
        found = self._saves.go_back(partial(self._care.is_fit, before=verdict.steps[0]))
        if found is None:
            self._care.give_up(verdict, at=at, why="with no healthy checkpoint to go back to")
        self._first(self._ownership.check)  # loading takes a while
        self._care.went_back(verdict, at=at, to=int(found["step"]), positions=positions)
        return self._state.start(found)

    def _first(self, act: Callable[[], None]) -> None:
        """Rank 0 acts; if it cannot, every rank raises what it raised."""
        message = None
        if self._ranks.rank == 0:
            try:
                act()
            except RushesError as error:
                message = told(error)
        message = gather_json(message, device=self._ranks.device)[0]
        if message is not None:
            raise heard(message, where=f"stage {self._job.stage}")

    def _event(self, event: Mapping[str, object]) -> None:
        if self._ranks.rank == 0:
            self._hooks.event(dict(event))

    def _tell_history(self) -> None:
        """Where the steps so far are: another machine may have trained them, and told no more."""
        uri = self._log.uri if self._ranks.rank == 0 else None
        if self._log.damaged:
            self._note(f"damaged lines of {uri}: {self._log.damaged}, left out")
        if uri is not None:
            self._event({"kind": "history", "stage": self._job.stage, "uri": uri})

    def _moment(self, moment: str, **values: int) -> None:
        said = {"kind": "moment", "stage": self._job.stage, "moment": moment}
        self._event(said | {"time": time.time()} | values)

    def _note(self, text: str) -> None:
        self._event({"kind": "note", "stage": self._job.stage, "text": text})

"""One rank of one training stage, from an empty process to finished weights."""

import math
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

import torch

from orchestrator.data.stream import Stream
from orchestrator.errors import FencedError, RushesError, UnavailableError, UserError, heard, told
from orchestrator.recipe.train import Train
from orchestrator.storage.store import Store, open_store
from orchestrator.train.care import Care
from orchestrator.train.checkpoint.load import load_latest
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.engine.base import Engine
from orchestrator.train.engine.blocks import apply_memory_and_speed
from orchestrator.train.engines import build_engines
from orchestrator.train.exchange import gather_json
from orchestrator.train.finish import finish
from orchestrator.train.health import Verdict
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob, StageResult
from orchestrator.train.loop import Loop, Step
from orchestrator.train.metrics_log import MetricsLog
from orchestrator.train.ownership import Ownership
from orchestrator.train.preview import Preview
from orchestrator.train.ranks import Ranks, join
from orchestrator.train.recorder import Recorder
from orchestrator.train.run_state import RunState
from orchestrator.train.sources import open_stream
from orchestrator.train.tasks.base import Task
from orchestrator.train.tasks.build import build_task
from orchestrator.train.tasks.pixels import PixelTask
from orchestrator.train.window import Window

MAX_LOST_SAVES = 3  # in a row, that a stage trains on after


def run(job: StageJob, *, hooks: Hooks) -> StageResult:
    """Trains a stage to its end, or to a saved stop.

    Called alike by Ray Train, by a plain process and by torchrun; the rank comes from the process
    group or from RANK, WORLD_SIZE and MASTER_*.

    Raises:
        RushesError: one line for the user; the exit code says whose fault it is.
    """
    stage = job.spec
    train = stage.training
    torch.set_num_threads(stage.compute.cpus_per_worker)
    ranks = join(gpus=stage.compute.gpus_per_worker)
    if train.batch % (train.micro_batch * ranks.world_size):
        raise UserError(
            f"stages.{stage.id}.train.batch={train.batch} does not split over "
            f"{ranks.world_size} ranks of micro_batch={train.micro_batch}"
        )
    store = open_store(job.run)
    task = build_task(job.recipe, stage, store=store, device=ranks.device)
    apply_memory_and_speed(task.blocks(), checkpointing=train.checkpointing, compile=train.compile)
    engines = build_engines(
        stage,
        task,
        ranks=ranks,
        kind="plain" if stage.compute.workers == 0 else "deepspeed",
        zero=stage.compute.zero,
    )
    with (
        tempfile.TemporaryDirectory(prefix="rushes-") as scratch,
        closing(open_stream(job, ranks=ranks)) as stream,
    ):
        return _Session(
            job=job,
            ranks=ranks,
            store=store,
            task=task,
            engines=engines,
            stream=stream,
            scratch=Path(scratch),
            hooks=hooks,
        ).run()


class _Session:
    """The state of one rank while its stage trains."""

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
    ) -> None:
        self._job = job
        self._ranks = ranks
        self._store = store
        self._task = task
        self._engines = engines
        self._stream = stream
        self._hooks = hooks
        self._checkpoints = f"{job.folder}/checkpoints"
        self._log = MetricsLog(
            scratch / "metrics.jsonl", store=store, key=f"{job.folder}/metrics.jsonl"
        )
        self._recorder = Recorder(stage=job.spec, ranks=ranks, log=self._log, event=self._event)
        self._ownership = Ownership(store, job.folder, attempt=job.attempt)
        self._saver = Saver(
            store,
            self._checkpoints,
            engines=engines,
            ranks=ranks,
            save=job.spec.save,
            ownership=self._ownership,
        )
        self._care = Care(job, store=store, ranks=ranks, first=self._first, event=self._event)
        self._state = RunState(
            recipe=job.recipe,
            ranks=ranks,
            stream=stream,
            recorder=self._recorder,
            log=self._log,
            care=self._care,
        )
        self._load = partial(
            load_latest, store, self._checkpoints, engines=engines, ranks=ranks, note=self._note
        )
        self._lost_saves = 0
        self._said_no_metric = False
        self._preview = Preview(
            job,
            store=store,
            ranks=ranks,
            event=self._event,
            text=task.frozen if isinstance(task, PixelTask) else None,
        )

    def run(self) -> StageResult:
        self._first(self._ownership.take)
        start, window = self._resume()
        loop = Loop(
            stage=self._job.spec,
            seed=self._job.recipe.seed,
            task=self._task,
            engines=self._engines,
            stream=self._stream,
            ranks=self._ranks,
            should_stop=self._hooks.should_stop,
            monitor=self._care.monitor,
        )
        while start < self._train.steps:
            for step in loop.steps(start=start, window=window):
                start = step.number
                verdict = self._after(step)
                if step.stop and step.number < self._train.steps:
                    return StageResult(status="stopped", step=step.number)
                if verdict is not None:
                    start, window = self._rewind(verdict, at=step)
                    break
        finish(
            self._job,
            store=self._store,
            ranks=self._ranks,
            task=self._task,
            engines=self._engines,
            event=self._event,
            before_writing=lambda: self._first(self._ownership.check),
        )
        return StageResult(status="done", step=self._train.steps)

    @property
    def _train(self) -> Train:
        return self._job.spec.training

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

    def _event(self, event: dict[str, object]) -> None:
        if self._ranks.rank == 0:
            self._hooks.event(event)

    def _note(self, text: str) -> None:
        self._event({"kind": "note", "stage": self._job.stage, "text": text})

    def _after(self, step: Step) -> Verdict | None:
        last = step.number == self._train.steps
        if step.refusal is not None:
            self._care.refused(step.refusal)
        if step.ends_window:
            self._state.metrics = self._recorder.record(step, rewinds=self._care.rewinds)
            self._care.monitor.logged(step.number, loss=self._state.metrics.get("loss", math.nan))
            self._look_for_the_best_metric()
        elif step.stop:
            self._recorder.stopped(step)
        verdict = self._care.monitor.verdict()
        if verdict is not None and (last or not step.stop):
            return verdict  # a stop before the end comes first: the next start goes back
        if step.number % self._job.spec.save.every_steps == 0 or last or step.stop:
            self._save(step)
        else:
            self._tolerant(self._saver.poll)
        if last or step.stop:
            self._saver.finish()
        if self._preview.is_due(step.number):
            self._preview.sample(self._engines, step=step.number)
        return None

    def _look_for_the_best_metric(self) -> None:
        """Says once that ``keep_best`` asks for a metric that is not logged."""
        rule, names = self._job.spec.save.keep_best, sorted(self._state.metrics)
        if rule is None or not names or rule.metric in names or self._said_no_metric:
            return
        self._said_no_metric = True
        self._note(
            f"save.keep_best.metric={rule.metric} is not logged, so nothing is kept for it; "
            f"wanted one of {', '.join(names)}"
        )

    def _save(self, step: Step) -> None:
        extra = self._state.extra(step)
        self._tolerant(self._saver.finish)
        beside = self._log.copy() | self._care.evidence() if self._ranks.rank == 0 else None
        self._saver.begin(step=step.number, extra=extra, beside=beside, metrics=self._state.metrics)

    def _tolerant(self, collect: Callable[[], bool]) -> None:
        """Training outlasts a store that is away for some saves, but not for many in a row."""
        try:
            if collect():
                self._lost_saves = 0
        except FencedError:
            raise
        except UnavailableError as error:
            self._lost_saves += 1
            if self._lost_saves > MAX_LOST_SAVES:
                raise
            self._note(f"{error}; training goes on, the next save tries again")

    def _resume(self) -> tuple[int, Window]:
        self._care.resume()
        found = self._load()
        if found is not None:
            self._note(f"goes on from step {found['step']}")
        return self._state.start(found)

    def _rewind(self, verdict: Verdict, *, at: Step) -> tuple[int, Window]:
        """Back to the newest healthy checkpoint, to go on without the batches of bad steps."""
        self._tolerant(self._saver.finish)
        self._first(self._ownership.check)
        self._care.check_rewinds(verdict, at=at)
        positions = [self._stream.position(step) for step in verdict.steps]
        found = self._load(is_fit=partial(self._care.is_fit, before=verdict.steps[0]))
        if found is None:
            self._care.give_up(verdict, at=at, why="with no healthy checkpoint to go back to")
        self._first(self._ownership.check)
        self._care.went_back(verdict, at=at, to=int(found["step"]), positions=positions)
        return self._state.start(found)

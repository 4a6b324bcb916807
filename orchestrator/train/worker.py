"""One rank of one training stage, from an empty process to finished weights."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from orchestrator.data.stream import Stream
from orchestrator.errors import FencedError, RushesError, UnavailableError, UserError, heard, told
from orchestrator.recipe.digest import recipe_digest
from orchestrator.recipe.train import Train
from orchestrator.storage.store import Store, open_store
from orchestrator.train.checkpoint.load import load_latest
from orchestrator.train.checkpoint.pace import Pace
from orchestrator.train.checkpoint.save import Saver
from orchestrator.train.engine.base import Engine
from orchestrator.train.engine.blocks import apply_memory_and_speed
from orchestrator.train.engines import build_engines
from orchestrator.train.exchange import gather_json
from orchestrator.train.finish import finish
from orchestrator.train.hooks import Hooks
from orchestrator.train.job import StageJob, StageResult
from orchestrator.train.loop import Loop, Step
from orchestrator.train.metrics_log import MetricsLog
from orchestrator.train.ownership import Ownership
from orchestrator.train.preview import Preview
from orchestrator.train.ranks import Ranks, join
from orchestrator.train.recorder import Recorder
from orchestrator.train.sources import open_stream
from orchestrator.train.tasks.base import Task
from orchestrator.train.tasks.build import build_task
from orchestrator.train.tasks.pixels import PixelTask
from orchestrator.train.window import Window, restore_window

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
        self._pace = Pace(
            job.spec.save, log_every=self._train.log_every, ranks=ranks, saver=self._saver
        )
        self._lost_saves = 0
        self._metrics: dict[str, float] = {}  # as last logged
        self._said_no_metric = False
        self._made_by = {"recipe": recipe_digest(job.recipe)} | _versions()
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
        )
        for step in loop.steps(start=start, window=window):
            self._after(step)
            if step.stop and step.number < self._train.steps:
                return StageResult(status="stopped", step=step.number)
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

    def _after(self, step: Step) -> None:
        self._pace.step_ended()
        last = step.number == self._train.steps
        if step.ends_window:
            self._metrics = self._recorder.record(step, more=self._pace.metrics())
            self._look_for_the_best_metric()
        elif step.stop:
            self._recorder.stopped(step)
        if self._pace.is_due(step.number) or last or step.stop:
            self._save(step)
        else:
            self._tolerant(self._saver.poll)
        if last or step.stop:
            self._saver.finish()
        if self._preview.is_due(step.number):
            self._preview.sample(self._engines, step=step.number)
        self._pace.step_begins()

    def _look_for_the_best_metric(self) -> None:
        """Says once that ``keep_best`` asks for a metric that is not logged."""
        rule, names = self._job.spec.save.keep_best, sorted(self._metrics)
        if rule is None or not names or rule.metric in names or self._said_no_metric:
            return
        self._said_no_metric = True
        self._note(
            f"save.keep_best.metric={rule.metric} is not logged, so nothing is kept for it; "
            f"wanted one of {', '.join(names)}"
        )

    def _save(self, step: Step) -> None:
        self._tolerant(self._saver.finish)
        window = Window() if step.ends_window else step.window
        extra = {
            "stream": self._stream.state_dict(),
            "step": step.number,
            "windows": gather_json(window.state(), device=self._ranks.device),
            "recorder": self._recorder.state_dict(),
            "metrics": self._metrics,
            "made_by": self._made_by,
            "pace": self._pace.state_dict(stopped=step.stop),
        }
        log = self._log.copy() if self._ranks.rank == 0 else None
        self._pace.begins_save(step.number)
        self._saver.begin(step=step.number, extra=extra, beside=log, metrics=self._metrics)

    def _tolerant(self, collect: Callable[[], bool]) -> None:
        """Training outlasts a store that is away for some saves, but not for many in a row."""
        try:
            if collect():
                self._lost_saves = 0
                self._pace.committed()
        except FencedError:
            raise
        except UnavailableError as error:
            self._lost_saves += 1
            if self._lost_saves > MAX_LOST_SAVES:
                raise
            self._note(f"{error}; training goes on, the next save tries again")

    def _resume(self) -> tuple[int, Window]:
        found = load_latest(
            self._store,
            self._checkpoints,
            engines=self._engines,
            ranks=self._ranks,
            note=self._note,
        )
        step, window = 0, Window()
        if found is not None:
            step = int(found["step"])
            window = self._restored(found)
            self._stream.load_state_dict(found["stream"])
            self._note(f"goes on from step {step}")
        self._pace.resume(
            None if found is None else found.get("pace"),
            step=step,
            gangs=self._ownership.gangs,
            has_begun=found is not None,
        )
        if self._ranks.rank == 0:
            self._log.resume(step=step)
        return step, window

    def _restored(self, found: Mapping[str, Any]) -> Window:
        if "recorder" in found:  # checkpoints of earlier versions hold neither
            self._recorder.load_state_dict(found["recorder"])
        self._metrics = found.get("metrics", {})
        return restore_window(
            found.get("windows", ()),
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
            device=self._ranks.device,
        )


def _versions() -> dict[str, str]:
    """Of what decides how numbers come out; a package that is not installed here is left out."""
    found: dict[str, str] = {}
    for name in ("rushes", "torch", "deepspeed"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found

"""Runs stages on Ray: Ray Train for training, Ray Data for encoding, a task for evaluation."""

import threading
from pathlib import Path

import ray
from ray.exceptions import RayError

from orchestrator.cascade.board import Reader, open_board
from orchestrator.cascade.executor import EventSink
from orchestrator.cascade.explain import explain
from orchestrator.cascade.gang import run_gang
from orchestrator.cascade.ray_tasks import run_encode, run_evaluate
from orchestrator.cascade.ray_train import WORKER, train
from orchestrator.cascade.room import fit, least, most
from orchestrator.cascade.worker_env import LOOPBACK, worker_env
from orchestrator.train.job import StageJob, StageResult


class RayExecutor:
    """Executor on the cluster that this process has joined.

    Args:
        scratch: a local folder for Ray Train's bookkeeping; ours is in the run's folder.
        logs: a local folder for the full text of failures.
        private: this Ray was started for us, on this machine, and ends with us.
        worker: ``module:function`` that ranks of a training stage run.
    """

    side_by_side = True

    def __init__(
        self,
        *,
        scratch: Path,
        logs: Path,
        private: bool,
        worker: str = WORKER,
    ) -> None:
        self._private = private
        self._scratch = scratch
        self._logs = logs
        self._worker = worker
        self._board = open_board()

    def fits(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
        """Places all workers on the nodes that live now, as if nobody else used them."""
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        held = [most(other.spec.compute) for other in beside]
        return fit([*held, least(job.spec.compute)], nodes=nodes)

    def run(self, job: StageJob, *, on_event: EventSink, stop: threading.Event) -> StageResult:
        """Runs a stage; blocks."""
        reader = Reader(self._board, stage=job.stage, sink=on_event, stop=stop)
        try:
            return self._run(job, on_event=on_event, stop=stop)
        finally:
            reader.close()

    def _run(self, job: StageJob, *, on_event: EventSink, stop: threading.Event) -> StageResult:
        log = self._logs / f"{job.stage}.log"
        env = worker_env(job.spec) | (LOOPBACK if self._private else {})
        if job.spec.compute.workers == 0 and job.spec.train is not None:
            return run_gang(job, on_event=on_event, stop=stop, logs=self._logs)
        if job.spec.train is not None:
            return train(
                job,
                board=self._board,
                scratch=self._scratch,
                log=log,
                env=env,
                private=self._private,
                worker=self._worker,
            )
        try:
            run = run_encode if job.spec.kind == "encode" else run_evaluate
            return run(job, board=self._board, env=env, stop=stop)
        except RayError as error:
            raise explain(error, stage=job.stage, log=log) from None

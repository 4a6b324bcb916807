"""Runs stages on Ray: Ray Train for gangs, Ray Data for encoding, a task for the rest."""

import threading
from pathlib import Path
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError

from orchestrator.cascade.board import Reader, open_board
from orchestrator.cascade.executor import EventSink, NoRoomError
from orchestrator.cascade.explain import explain
from orchestrator.cascade.head import Head, reaching_ray
from orchestrator.cascade.nodes import draining_nodes, usable_nodes
from orchestrator.cascade.ray_tasks import run_encode, run_evaluate, run_plain
from orchestrator.cascade.ray_train import WORKER, train
from orchestrator.cascade.room import Resources, fit, gang_of, least, left, missing, shortage
from orchestrator.cascade.worker_env import worker_env
from orchestrator.errors import UserError
from orchestrator.train.job import StageJob, StageResult
from orchestrator.train.loopback import LOOPBACK


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
        with reaching_ray():
            here = ray.get_runtime_context()
            self._head = Head(here.gcs_address)
            self._node = here.get_node_id()
            self._board = open_board()
        self._may_grow = True

    def fits(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
        """Beside others: on what Ray has left, less what those still wait for."""
        with reaching_ray():
            return self._fits(job, beside=beside)

    def wait_for_room(self, jobs: tuple[StageJob, ...], *, beside: tuple[StageJob, ...]) -> None:
        """Keeps gangs as they are while one of these could start beside them as they are."""
        with reaching_ray():
            may_grow = not any(self._could_start(job, beside=beside) for job in jobs)
            if may_grow != self._may_grow:
                ray.get(self._board.let_grow.remote(may_grow))
                self._may_grow = may_grow

    def check(self) -> str | None:
        """Looks for the head, and whether the driver's node is drained, now and then."""
        if not self._head.check():
            return None
        with reaching_ray():
            is_leaving = self._node in draining_nodes()
        return "the driver's node is about to be taken away" if is_leaving else None

    def run(self, job: StageJob, *, on_event: EventSink, stop: threading.Event) -> StageResult:
        """Runs a stage; blocks.

        Raises:
            UserError: if it is larger than this machine, where this Ray has no other.
            UnavailableError: if Ray is lost.
        """
        if not self.fits(job, beside=()):
            self._say_too_large(job, on_event=on_event)
        with reaching_ray():
            ray.get(self._board.enter.remote(job.stage))
            reader = Reader(self._board, stage=job.stage, sink=on_event, stop=stop)
            try:
                return self._run(job, stop=stop)
            except NoRoomError:
                raise NoRoomError(self._shortage(job)) from None
            finally:
                ray.get(self._board.leave.remote(job.stage))
                reader.close()

    def _fits(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
        nodes, wanted = self._nodes(), least(job.spec.compute)
        if not beside:
            return fit([wanted], nodes=list(nodes.values()))
        placed: Any = ray.get(self._board.placed.remote())
        still = [missing(one.spec.compute, placed=placed.get(one.stage, 0)) for one in beside]
        free = available_resources_per_node()
        return fit([wanted], nodes=left(still, nodes=[free.get(node, {}) for node in nodes]))

    def _could_start(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
        """Whether there will be room once all are over but gangs that could grow."""
        placed: Any = ray.get(self._board.placed.remote())
        elastic = [one for one in beside if one.spec.compute.is_elastic]
        stay = [gang_of(one.spec.compute, workers=placed.get(one.stage, 0)) for one in elastic]
        if not stay:
            return False
        return fit([*stay, least(job.spec.compute)], nodes=list(self._nodes().values()))

    def _say_too_large(self, job: StageJob, *, on_event: EventSink) -> None:
        if self._private:
            raise UserError(
                f"stages.{job.stage}.compute: {self._shortage(job)}; wanted a smaller stage, or a "
                "cluster's RAY_ADDRESS"
            )
        text = f"{self._shortage(job)}; waits for a larger cluster"
        on_event({"kind": "note", "stage": job.stage, "text": text})

    def _run(self, job: StageJob, *, stop: threading.Event) -> StageResult:
        log = self._logs / f"{job.stage}.log"
        env = worker_env(job.spec) | (LOOPBACK if self._private else {})
        if job.spec.train is not None and job.spec.compute.workers:
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
            if job.spec.train is not None:
                return run_plain(job, board=self._board, env=env, stop=stop, worker=self._worker)
            run = run_encode if job.spec.kind == "encode" else run_evaluate
            return run(job, board=self._board, env=env, stop=stop)
        except RayError as error:
            raise explain(error, stage=job.stage, log=log) from None

    def _shortage(self, job: StageJob) -> str:
        return shortage(job.spec.compute, nodes=list(self._nodes().values()))

    def _nodes(self) -> dict[str, Resources]:
        """What each node that stays has when nothing runs on it, by its id."""
        self._head.reach()
        return usable_nodes()

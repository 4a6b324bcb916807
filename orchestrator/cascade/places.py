"""What Ray Train's controller tells the board: which of a stage's workers have a place.

Imported by the controller: ``ray.train`` is imported here, torch is not.
"""

import json
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator.cascade.events import gang_ending, gang_started
from orchestrator.errors import StoppedError


class TellPlaces(WorkerGroupCallback):
    """Says when a gang has its place, when it is seen to fail, and when it gives its place back.

    Args:
        board: the actor beside the driver.
        stage: whose gang it is.
    """

    def __init__(self, board: Any, *, stage: str) -> None:
        self._board = board
        self._stage = stage
        self._is_running = False

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Starts no gang for a stage that should end: nobody in it would hear of that."""
        if ray.get(self._board.is_stopping.remote(self._stage)):
            raise StoppedError("stopped before its workers had a place")

    def after_worker_group_start(self, worker_group: Any) -> None:
        """All of this gang's workers run."""
        workers = len(worker_group.get_workers())
        self._is_running = True
        self._say(gang_started(self._stage, workers=workers))
        self._tell(workers)

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """The failure of a worker is seen here; the gang keeps its place until the next has one."""
        if worker_group_status.errors:
            self._end(failed=True)

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Said before they are gone: until then their room counts twice, never as free."""
        self._end(failed=False)
        self._tell(0)

    def before_worker_group_abort(self, worker_group_context: Any) -> None:
        """As a shutdown."""
        self._end(failed=False)
        self._tell(0)

    def _end(self, *, failed: bool) -> None:
        if self._is_running:
            self._is_running = False
            self._say(gang_ending(self._stage, failed=failed))

    def _say(self, event: dict[str, Any]) -> None:
        ray.get(self._board.exchange.remote(self._stage, [json.dumps(event)]))

    def _tell(self, workers: int) -> None:
        ray.get(self._board.place.remote(self._stage, workers))

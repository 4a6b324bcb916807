"""What Ray Train's controller tells the driver: when a gang began and when it was seen to end.

Imported by the controller: ``ray.train`` is imported here, torch is not.
"""

import json
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator.cascade.events import gang_ending, gang_started


class TellGangTimes(WorkerGroupCallback):
    """Tells the beginning and the end of each gang of a stage, once.

    To be called before callbacks that raise: those after them hear nothing.

    Args:
        board: the actor beside the driver.
        stage: whose gangs they are.
    """

    def __init__(self, board: Any, *, stage: str) -> None:
        self._board = board
        self._stage = stage
        self._is_running = False

    def after_worker_group_start(self, worker_group: Any) -> None:
        """All of a gang's workers run."""
        self._is_running = True
        self._tell(gang_started(self._stage, workers=len(worker_group.get_workers())))

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """The failure of a worker is seen here; its gang is shut down when the next has room."""
        if worker_group_status.errors:
            self._end(failed=True)

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Done, or to be started anew."""
        self._end(failed=False)

    def before_worker_group_abort(self, worker_group_context: Any) -> None:
        """As a shutdown."""
        self._end(failed=False)

    def _end(self, *, failed: bool) -> None:
        if self._is_running:
            self._is_running = False
            self._tell(gang_ending(self._stage, failed=failed))

    def _tell(self, event: dict[str, Any]) -> None:
        ray.get(self._board.exchange.remote(self._stage, [json.dumps(event)]))

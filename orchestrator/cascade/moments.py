"""What Ray Train's controller tells of a gang's fate: when it was lost, gone, and placed again.

Imported by the controller: ``ray.train`` is imported here, torch is not.
"""

import json
import time
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback


class TellMoments(WorkerGroupCallback):
    """Sends a ``moment`` event, with the time, to the driver for each step of a restart.

    Args:
        board: the actor beside the driver.
        stage: whose gang it is.
    """

    def __init__(self, board: Any, *, stage: str) -> None:
        self._board = board
        self._stage = stage

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Some rank is gone or has failed."""
        if worker_group_status.errors:
            self._tell("lost")

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        """No rank of the old gang is left."""
        self._tell("stopped")

    def after_worker_group_abort(self, worker_group_context: Any) -> None:
        """As a shutdown."""
        self._tell("stopped")

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Every rank of the new gang has its place and a process."""
        self._tell("placed")

    def _tell(self, moment: str) -> None:
        event = {"kind": "moment", "stage": self._stage, "moment": moment, "time": time.time()}
        ray.get(self._board.exchange.remote(self._stage, [json.dumps(event)]))

"""What Ray Train's controller tells the board: which of a stage's workers have a place.

Imported by the controller: ``ray.train`` is imported here, torch is not.
"""

from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator.errors import StoppedError


class TellPlaces(WorkerGroupCallback):
    """Says when a gang has its place and when it gives it back.

    Args:
        board: the actor beside the driver.
        stage: whose gang it is.
    """

    def __init__(self, board: Any, *, stage: str) -> None:
        self._board = board
        self._stage = stage

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Starts no gang for a stage that should end: nobody in it would hear of that."""
        if ray.get(self._board.is_stopping.remote(self._stage)):
            raise StoppedError("stopped before its workers had a place")

    def after_worker_group_start(self, worker_group: Any) -> None:
        """All of this gang's workers run."""
        self._tell(len(worker_group.get_workers()))

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Said before they are gone: until then their room counts twice, never as free."""
        self._tell(0)

    def before_worker_group_abort(self, worker_group_context: Any) -> None:
        """As a shutdown."""
        self._tell(0)

    def _tell(self, workers: int) -> None:
        ray.get(self._board.place.remote(self._stage, workers))

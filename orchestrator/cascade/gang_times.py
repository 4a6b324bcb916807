"""What Ray Train's controller tells the driver: when a gang began, was seen to end, and was gone.

Imported by the controller: ``ray.train`` is imported here, torch is not.
"""

from typing import Any

from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator.cascade.events import gang_ending, gang_gone, gang_started
from orchestrator.cascade.places import Line


class TellGangTimes(WorkerGroupCallback):
    """Tells the beginning and the end of each gang of a stage, once.

    To be called before callbacks that raise: those after them hear nothing.
    """

    def __init__(self, line: Line) -> None:
        self._line = line
        self._is_running = False

    def after_worker_group_start(self, worker_group: Any) -> None:
        """All of a gang's workers run."""
        self._is_running = True
        workers = len(worker_group.get_workers())
        self._line.say(gang_started(self._line.stage, workers=workers))

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

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        """No rank is left."""
        self._line.say(gang_gone(self._line.stage))

    def after_worker_group_abort(self, worker_group_context: Any) -> None:
        """As a shutdown."""
        self._line.say(gang_gone(self._line.stage))

    def _end(self, *, failed: bool) -> None:
        if self._is_running:
            self._is_running = False
            self._line.say(gang_ending(self._line.stage, failed=failed))

"""Between Ray Train's controller and the board: the place of a stage's gang, and what it is asked.

Imported by the controller: ``ray.train`` is imported here, torch is not.
"""

import json
from typing import Any

import ray
from ray.train.v2._internal.execution.callback import WorkerGroupCallback

from orchestrator.cascade.board import GangState
from orchestrator.errors import StoppedError


class Line:
    """The controller's end of the board, for one stage.

    Args:
        board: the actor beside the driver.
        stage: whose gang it is.
    """

    def __init__(self, board: Any, *, stage: str) -> None:
        self.stage = stage
        self._board = board

    def begin(self) -> bool:
        """A new gang is about to start; returns whether it should not."""
        return ray.get(self._board.begin.remote(self.stage))

    def place(self, workers: int, *, group: str | None) -> None:
        """So many workers have a place in a placement group."""
        ray.get(self._board.place.remote(self.stage, workers, group))

    def look(self) -> GangState:
        """All that is known of the gang."""
        found: dict[str, Any] = ray.get(self._board.look.remote(self.stage))
        return GangState(**found)

    def may_grow(self) -> bool:
        """Whether the gang may take what is free."""
        return ray.get(self._board.may_grow.remote(self.stage))

    def pause(self) -> None:
        """Asks the gang to save and wait."""
        ray.get(self._board.pause.remote(self.stage))

    def go_on(self) -> None:
        """Takes that back."""
        ray.get(self._board.go_on.remote(self.stage))

    def say(self, event: dict[str, Any]) -> None:
        """Hands the driver an event."""
        ray.get(self._board.exchange.remote(self.stage, [json.dumps(event)]))


class TellPlaces(WorkerGroupCallback):
    """Says when a gang has its place and when it gives it back."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Starts no gang for a stage that should end: nobody in it would hear of that."""
        if self._line.begin():
            raise StoppedError("stopped before its workers had a place")

    def after_worker_group_start(self, worker_group: Any) -> None:
        """All of this gang's workers run."""
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        self._line.place(len(worker_group.get_workers()), group=group.id.hex())

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Said before they are gone: until then their room counts twice, never as free."""
        self._line.place(0, group=None)

    def before_worker_group_abort(self, worker_group_context: Any) -> None:
        """As a shutdown."""
        self._line.place(0, group=None)

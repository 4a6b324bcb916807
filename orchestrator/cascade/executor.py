"""Who runs a stage: Ray on a cluster, or plain processes on this machine."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.train.job import StageJob, StageResult

EventSink = Callable[[dict[str, Any]], None]


class Executor(Protocol):
    """Runs one stage to its end or to a saved stop; several may run at once, from threads.

    Every call raises RushesError with one line for the user, and nothing else for what a recipe,
    a store or a worker may do.
    """

    def run(self, job: StageJob, *, on_event: EventSink, stop: threading.Event) -> StageResult:
        """Runs a stage of any kind.

        Args:
            job: the stage.
            on_event: takes the stage's events, from a thread of the executor.
            stop: set once the stage should save and end.
        """
        ...

    def fits(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
        """True if there is room for a stage beside those that run now.

        Raises:
            UserError: if it does not fit even alone.
        """
        ...


@dataclass(frozen=True)
class DirectHooks:
    """Hooks of a worker in the driver's own process."""

    on_event: EventSink
    stop: threading.Event

    def event(self, event: dict[str, Any]) -> None:
        """Hands the event on at once."""
        self.on_event(event)

    def should_stop(self) -> bool:
        """True once the driver was asked to stop."""
        return self.stop.is_set()

"""Who runs a stage: Ray on a cluster, or plain processes on this machine."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.errors import UnavailableError
from orchestrator.train.hooks import NeverPaused
from orchestrator.train.job import StageJob, StageResult
from orchestrator.train.latents import latents_uri

EventSink = Callable[[dict[str, Any]], None]


class NoRoomError(UnavailableError):
    """A stage found no place in time: it has not failed, it has not started.

    Its text says what the stage needs and what there is.
    """


class Executor(Protocol):
    """Runs one stage to its end or to a saved stop; several may run at once, from threads.

    Every call raises RushesError with one line for the user, and nothing else for what a recipe,
    a store or a worker may do.
    """

    @property
    def side_by_side(self) -> bool:
        """False if stages run one after the other, in the caller's thread."""
        ...

    def run(self, job: StageJob, *, on_event: EventSink, stop: threading.Event) -> StageResult:
        """Runs a stage of any kind.

        Args:
            job: the stage.
            on_event: takes the stage's events, from a thread of the executor.
            stop: set once the stage should save and end.

        Raises:
            NoRoomError: if workers found no place; the stage may be run again.
        """
        ...

    def fits(self, job: StageJob, *, beside: tuple[StageJob, ...]) -> bool:
        """True if there is room for a stage now, beside those that run.

        With nothing beside it: True if it fits once nobody else uses what there is.
        """
        ...

    def wait_for_room(self, jobs: tuple[StageJob, ...], *, beside: tuple[StageJob, ...]) -> None:
        """Told which stages are ready and found no room beside those that run.

        A gang does not grow into room in which one of them could start before the gang ends.
        """
        ...

    def check(self) -> str | None:
        """Called again and again while stages run.

        Returns:
            Why all of them should save and stop, if this machine is about to be taken away.

        Raises:
            UnavailableError: if what they run on is gone; ``run`` may never return then.
        """
        ...


@dataclass(frozen=True)
class DirectHooks(NeverPaused):
    """Hooks of a worker in the driver's own process."""

    on_event: EventSink
    stop: threading.Event

    def event(self, event: dict[str, Any]) -> None:
        """Hands the event on at once."""
        self.on_event(event)

    def should_stop(self) -> bool:
        """True once the driver was asked to stop."""
        return self.stop.is_set()


def encoded_event(job: StageJob, *, digest: str) -> dict[str, Any]:
    """What an encode stage tells of the index that it has written."""
    return {
        "kind": "dataset",
        "stage": job.stage,
        "name": f"{job.recipe.name}-{job.stage}",
        "uri": latents_uri(job.run, stage=job.stage),
        "digest": digest,
        "context": "output",
    }

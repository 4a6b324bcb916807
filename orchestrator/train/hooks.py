"""What a worker says to whoever started it, and what it asks."""

from enum import IntEnum
from typing import Any, Protocol


class Asked(IntEnum):
    """What a gang is asked to do at its next step boundary."""

    NOTHING = 0
    PAUSE = 1  # save, say so, and wait: the gang is about to be started anew
    STOP = 2  # save and end


class Hooks(Protocol):
    """The worker's line to its driver; never blocking a step.

    Rank 0 says what happens in the stage; beats come from every rank, from a thread of their own.
    """

    def event(self, event: dict[str, Any]) -> None:
        """Hands over one JSON event (progress, metrics, artifact, ...)."""
        ...

    def should_stop(self) -> bool:
        """True once the run was asked to save and stop."""
        ...

    def should_pause(self) -> bool:
        """True while somebody waits for a save, to start the gang anew from it."""
        ...

    def paused(self, step: int) -> None:
        """Says that all steps up to ``step`` are saved; waits as long as the gang should pause.

        A gang that is moved ends in here.
        """
        ...


class NeverPaused:
    """The part of ``Hooks`` for a gang that nobody starts anew elsewhere."""

    def should_pause(self) -> bool:
        """Nobody asks."""
        return False

    def paused(self, step: int) -> None:
        """Nobody waits."""

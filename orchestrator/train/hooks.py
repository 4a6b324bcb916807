"""What a worker says to whoever started it, and what it asks."""

from typing import Any, Protocol


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

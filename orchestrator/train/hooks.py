"""What a worker says to whoever started it, and what it asks."""

from typing import Any, Protocol


class Hooks(Protocol):
    """The worker's line to its driver; called on rank 0, never blocking a step."""

    def event(self, event: dict[str, Any]) -> None:
        """Hands over one JSON event (progress, metrics, artifact, ...)."""
        ...

    def should_stop(self) -> bool:
        """True once the run was asked to save and stop."""
        ...

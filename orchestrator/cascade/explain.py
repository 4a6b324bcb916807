"""From what Ray raises to what a user reads: one line, and the path of a log with the rest."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.cascade.executor import NoRoomError
from orchestrator.errors import RushesError, UnavailableError
from orchestrator.redact import redact

_NO_PLACE = "WorkerGroupStartupTimeoutError"  # a later try may find one
_TOO_LARGE = "InsufficientClusterResourcesError"  # beyond what the cluster may grow to

# What a driver gets of a cluster that is gone. By name, for plain processes know nothing of Ray.
_LOST = (
    "GetTimeoutError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "OwnerDiedError",
    "RayActorError",
    "RpcError",
)
_LOST_HERE = ("ConnectionError", "RaySystemError")  # from a worker: its own trouble

AGAIN = "start the same command again, it goes on from what is saved"


def explain(error: BaseException, *, stage: str, log: Path) -> RushesError:
    """The error that ends a stage.

    A RushesError that a worker raised comes back as it was. Anything else becomes one line; its
    full text goes to ``log``.
    """
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, RushesError) and not hasattr(cause, "traceback_str"):
            return cause
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(redact("\n\n".join(str(cause) for cause in causes)) + "\n")
    last = causes[-1]
    if _is_lost(causes):
        return UnavailableError(f"stage {stage}: lost Ray: {one_line(last)}; {AGAIN}; log: {log}")
    text = f"stage {stage}: {one_line(last)}; log: {log}"
    if type(last).__name__ == _NO_PLACE:
        return NoRoomError(text)
    if type(last).__name__ == _TOO_LARGE:
        return UnavailableError(text)
    return RushesError(text)


def one_line(error: BaseException) -> str:
    """The class and the first line of an error's text."""
    lines = [line.strip() for line in redact(str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _is_lost(causes: list[BaseException]) -> bool:
    """False for a worker that died again and again, or an actor that failed to begin.

    These are failures of the stage.
    """
    if any(hasattr(cause, "worker_failures") for cause in causes):
        return False
    if getattr(causes[-1], "actor_init_failed", False):
        return False
    kinds = _LOST + (_LOST_HERE if len(causes) == 1 else ())
    return any(kind.__name__ in kinds for kind in type(causes[-1]).__mro__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, then what it says it was caused by, innermost last."""
    seen: set[int] = set()
    current: Any = error
    while isinstance(current, BaseException) and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = _below(current)


def _below(error: BaseException) -> Any:
    failures = getattr(error, "worker_failures", None)  # ray.train.WorkerGroupError
    if failures:
        return failures[min(failures)]
    for name in ("controller_failure", "health_check_failure", "cause", "__cause__"):
        below = getattr(error, name, None)
        if below is not None:
            return below
    return None
